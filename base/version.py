"""Which clipfeat this is."""

from importlib import metadata


def clipfeat_version() -> str:
    """Return the installed version, `unknown` where the source tree is run as it lies."""
    try:
        return metadata.version("clipfeat")
    except metadata.PackageNotFoundError:
        return "unknown"
