"""Errors that a user can mend; the command line shows each as one line, never as a traceback."""

import contextlib
from collections.abc import Iterator

PACKAGES = {"PIL": "Pillow"}  # modules that are installed by another name


class ClipfeatError(Exception):
    """A run that failed: the text names the thing, the rule, the value and the remedy.

    `code`, such as E-GPUS-ABSENT, stays the same when the text improves: tests and scripts match
    it. The command line prints it behind the text.
    """

    exit_code = 1

    def __init__(self, *args: object, code: str = ""):
        super().__init__(*args)
        self.code = code


class UsageError(ClipfeatError):
    """A request that cannot be met as typed, found before any work was done."""

    exit_code = 2


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Import the packages of an extra in this block; UsageError says how to install those.

    Raises it where one is not there, and where one does not load.
    """
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get(error.name or "", error.name or "more")
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if missing else f"does not load ({error})"
        raise UsageError(
            f"this command needs {package}, which {problem}; type: pip install 'clipfeat[{extra}]'"
        ) from None
