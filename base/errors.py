"""Errors that a user can fix; the command line shows each as one line, without a traceback."""

import contextlib
import errno
from collections.abc import Generator

OWN_PACKAGE = __name__.partition(".")[0]  # clipfeat
DISTRIBUTIONS = {"PIL": "Pillow"}  # modules whose package is installed under another name


class ClipfeatError(Exception):
    """Any failure that clipfeat explains: what is wrong, the rule, the value and the remedy.

    `code`, such as E-GPUS-ABSENT, stays the same when the text is improved, so that tests and
    scripts can rely on it. The command line prints it after the text.
    """

    exit_code = 1

    def __init__(self, *args: object, code: str = ""):
        super().__init__(*args)
        self.code = code


class UsageError(ClipfeatError):
    """A request that is wrong, found before any work was done."""

    exit_code = 2


class ManifestError(UsageError):
    """A folder, a file or an option from which no manifest can be made."""


class ExtractError(ClipfeatError):
    """An extraction that failed while it ran."""


class ExtractUsageError(UsageError):
    """A request for an extraction that is wrong, found before it started."""


class StoreError(ClipfeatError):
    """A store that cannot be opened, read or written."""


class StoreUsageError(StoreError, UsageError):
    """A request that does not fit the store at this path, found before any work was done."""


class CorruptStoreError(StoreError):
    """A store whose bytes are not those that were written."""


class MissingRecordError(StoreError, KeyError):
    """An image id that the store does not have, or for which it has no record."""

    __str__ = Exception.__str__  # KeyError would print the text in quotes


def reason_of(error: Exception) -> str:
    """Return why something failed: for an OSError the system's message, without the file name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def open_code(error: OSError) -> str:
    """Return the error code for a file of a store that cannot be opened."""
    return "E-STORE-LINK" if error.errno == errno.ELOOP else "E-STORE-FILE"


@contextlib.contextmanager
def needs_extra(extra: str) -> Generator[None]:
    """Import the packages of an optional extra, such as "train", in this block.

    Raises UsageError that says how to install the extra, for a package that is not installed
    (E-EXTRA-MISSING) or cannot be loaded (E-EXTRA-BROKEN). An ImportError in clipfeat's own modules
    is a bug, and is not changed.
    """
    try:
        yield
    except ImportError as error:
        module = error.name or _raised_in(error)
        if module.partition(".")[0] == OWN_PACKAGE:
            raise
        package = DISTRIBUTIONS.get(module, module)
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if missing else f"cannot be loaded ({error})"
        raise UsageError(
            f"this command needs {package}, which {problem}; {how_to_install(extra)}",
            code="E-EXTRA-MISSING" if missing else "E-EXTRA-BROKEN",
        ) from error


def how_to_install(extra: str) -> str:
    """Return how to install an extra; clipfeat is installed from its source folder."""
    return f"run in the folder of clipfeat's source: pip install '.[{extra}]'"


def _raised_in(error: ImportError) -> str:
    """Return the name of the module that raised an error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return str(last.tb_frame.f_globals.get("__name__", "")) if last else ""
