"""Errors that a user can mend; the command line shows each as one line, never as a traceback."""


class ClipfeatError(Exception):
    """A run that failed: the text names the thing, the rule, the value and the remedy."""

    exit_code = 1


class UsageError(ClipfeatError):
    """A request that cannot be met as typed, found before any work was done."""

    exit_code = 2


def missing_extra(extra: str, package: str) -> UsageError:
    """Return the error for a command whose optional packages are not installed."""
    return UsageError(
        f"this command needs {package}, which is not installed; "
        f"type: pip install 'clipfeat[{extra}]'"
    )
