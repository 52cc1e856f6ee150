"""What all other packages use: errors, files, JSON, tables, texts for people, the machine."""


def clipfeat_version() -> str:
    """Return the version of the installed clipfeat, "unknown" where it is not installed."""
    from importlib import metadata  # 30 ms, and few processes ask

    try:
        return metadata.version("clipfeat")
    except metadata.PackageNotFoundError:
        return "unknown"
