"""The demo: coloured shapes with official annotations, houses to walk through, the report on a run."""

from .house_files import Houses, write_houses
from .write import DemoData, write_demo_data

__all__ = ["DemoData", "Houses", "write_demo_data", "write_houses"]
