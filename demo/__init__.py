"""The demo: pictures of coloured shapes with official annotations, and the report on a run."""

from .write import DemoData, write_demo_data

__all__ = ["DemoData", "write_demo_data"]
