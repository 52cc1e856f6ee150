"""What can be wrong with a list of images."""

from ..base.errors import UsageError


class ManifestError(UsageError):
    """A folder or a file from which no manifest can be made."""
