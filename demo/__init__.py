"""The demo: coloured shapes with official annotations, houses to walk through, the report on a run."""

from .write import DemoData, write_demo_data
from .write_houses import Houses, write_houses

__all__ = ["DemoData", "Houses", "write_demo_data", "write_houses"]
