"""Errors that a user can mend; the command line shows each as one line, never as a traceback."""

import contextlib
import errno
from collections.abc import Iterator

OWN = __name__.partition(".")[0]  # clipfeat, the package that all modules are in
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

    Raises it where one is not there, and where one does not load. An ImportError of clipfeat's
    own modules is a bug, and passes as it is.
    """
    try:
        yield
    except ImportError as error:
        module = error.name or _raised_in(error)
        if module.partition(".")[0] == OWN:
            raise
        package = PACKAGES.get(module, module)
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if missing else f"does not load ({error})"
        raise UsageError(
            f"this command needs {package}, which {problem}; {how_to_install(extra)}",
            code="E-EXTRA-MISSING" if missing else "E-EXTRA-BROKEN",
        ) from error


def how_to_install(extra: str) -> str:
    """Return what to type for an extra; clipfeat is installed from its source folder alone."""
    return f"type in the folder of clipfeat's source: pip install '.[{extra}]'"


def _raised_in(error: ImportError) -> str:
    """Return the module that raised an error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return str(last.tb_frame.f_globals.get("__name__", "")) if last else ""


class ManifestError(UsageError):
    """A folder or a file from which no manifest can be made."""


class ExtractError(ClipfeatError):
    """An extraction that failed on its way."""


class ExtractUsageError(UsageError):
    """An extraction that cannot start as it was asked for."""


class StoreError(ClipfeatError):
    """A store that cannot be opened, read or written as asked."""


class CorruptStoreError(StoreError):
    """Bytes of a store that are not the bytes that were written."""


def reason_of(error: Exception) -> str:
    """Return why something failed: the system's words where it has some, else the error's text."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def open_code(error: OSError) -> str:
    """Return the code of an error that says why a file of a store cannot be opened."""
    return "E-STORE-LINK" if error.errno == errno.ELOOP else "E-STORE-FILE"


class MissingRecordError(StoreError, KeyError):
    """An image id that the store does not have, or has without a record."""

    __str__ = Exception.__str__  # KeyError would print the text in quotes
