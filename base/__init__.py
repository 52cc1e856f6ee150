"""What all other packages use: errors, files, JSON, tables, texts for people, the machine."""

from importlib import metadata


def clipfeat_version() -> str:
    """Return the version of the installed clipfeat, "unknown" where it is not installed."""
    try:
        return metadata.version("clipfeat")
    except metadata.PackageNotFoundError:
        return "unknown"
