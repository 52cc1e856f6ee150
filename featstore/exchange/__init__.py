"""Features of other programs: read into a store, and written from one."""

from .exporting import ExportReport, export_features
from .formats import FORMATS, open_reader, open_writer
from .importing import ImportReport, import_features
from .options import Options, read_sizes
from .records import FeatureReader, Features, FeatureWriter, Item

__all__ = [
    "FORMATS",
    "ExportReport",
    "FeatureReader",
    "FeatureWriter",
    "Features",
    "ImportReport",
    "Item",
    "Options",
    "export_features",
    "import_features",
    "open_reader",
    "open_writer",
    "read_sizes",
]
