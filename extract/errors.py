"""What can go wrong between images and grids."""

from ..base.errors import ClipfeatError, UsageError


class ExtractError(ClipfeatError):
    """An extraction that failed on its way."""


class ExtractUsageError(UsageError):
    """An extraction that cannot start as it was asked for."""
