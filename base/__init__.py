"""What all other packages use: errors, files, JSON, tables, texts for people, the machine."""


def package_version(distribution: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    from importlib import metadata  # 30 ms, and few processes ask

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def clipfeat_version() -> str:
    """Return the version of the installed clipfeat, "unknown" where it is not installed."""
    return package_version("clipfeat") or "unknown"
