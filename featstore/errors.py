"""What can be wrong with a store."""

import errno

from ..base.errors import ClipfeatError


class StoreError(ClipfeatError):
    """A store that cannot be opened, read or written as asked."""


class CorruptStoreError(StoreError):
    """Bytes of a store that are not the bytes that were written."""


def open_code(error: OSError) -> str:
    """Return the code of an error that says why a file of a store cannot be opened."""
    return "E-STORE-LINK" if error.errno == errno.ELOOP else "E-STORE-FILE"


class MissingRecordError(StoreError, KeyError):
    """An image id that the store does not have, or has without a record."""

    __str__ = Exception.__str__  # KeyError would print the text in quotes
