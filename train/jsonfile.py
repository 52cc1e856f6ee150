"""Read and write JSON files, with errors that name the file and the key."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..base import jsonio
from ..base.errors import ClipfeatError
from ..base.files import write_atomically
from ..base.text import is_unicode

T = TypeVar("T")
DATA = 1 << 33  # bytes of a file of a data set; the largest, of GQA, have less than 1 GB
OF_RUN = 1 << 28  # bytes of a file that a run writes


def read_json(path: Path, limit: int = DATA, *, follow: bool = True) -> Any:
    """Return what a JSON file of at most `limit` bytes holds; ClipfeatError if it cannot be read.

    Without `follow`, for files in a run's folder, a symbolic link is an error too.
    """
    try:
        return jsonio.read_json(path, limit, follow=follow)
    except OSError as error:
        why = error.strerror
    except ValueError as error:
        why = str(error)
    raise ClipfeatError(f"{path}: not a readable JSON file ({why})", code="E-JSON-READ")


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where it stands, what it says) of each line; ClipfeatError for what cannot be read."""
    try:
        for number, record in jsonio.json_lines(path):
            yield f"{path}, line {number}", record
    except OSError as error:
        raise ClipfeatError(
            f"{path}: cannot be read ({error.strerror})", code="E-JSON-READ"
        ) from None
    except ValueError as error:
        raise ClipfeatError(f"{path}, {error}; is it cut off?", code="E-JSON-READ") from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; in ASCII, which every text of JSON fits into."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def field(record: Any, key: str, kind: type[T], where: object) -> T:
    """Return `record[key]`, a `kind`; ClipfeatError names `where` if it is not there or not one."""
    value = _value(record, key, where)
    if type(value) is not kind:  # a bool is no int here
        raise ClipfeatError(
            f"{where}: {key} must be of type {kind.__name__}; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def identifier(record: Any, key: str, where: object) -> int | str:
    """Return `record[key]`, a number or a text; ClipfeatError names `where` if it is neither."""
    value = _value(record, key, where)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ClipfeatError(
            f"{where}: {key} must be a number or text; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def _value(record: Any, key: str, where: object) -> Any:
    if not isinstance(record, dict):
        raise ClipfeatError(
            f"{where}: expected an object with {key!r}; got {record!r:.60}", code="E-JSON-TYPE"
        )
    if key not in record:
        keys = ", ".join(map(repr, record))
        raise ClipfeatError(f"{where}: no key {key!r}; found {keys:.200}", code="E-JSON-KEY")
    return record[key]


def require_ids(
    path: Path, found: Collection[int | str], wanted: Collection[int | str], *, of: str
) -> None:
    """Raise ClipfeatError that counts and names the ids which only one side has.

    `of` says what the ids are those of, in the plural: "questions".
    """
    there, asked = set(found), set(wanted)
    strays = (
        (f"{of} have no prediction", asked - there),
        (f"predictions are of no {of.removesuffix('s')}", there - asked),
    )
    told = [
        f"{len(ids)} {what}, such as {', '.join(map(repr, sorted(ids, key=str)[:3]))}"
        for what, ids in strays
        if ids
    ]
    if told:
        raise ClipfeatError(
            f"{path}: {'; '.join(told)}; score a split with its own predictions",
            code="E-PREDICTIONS-IDS",
        )


def list_items(value: Any, where: object, *, of: str) -> Iterator[tuple[str, Any]]:
    """Yield (where it is, item) of each item of a list; `of` says in errors what the items are.

    Raises ClipfeatError (E-JSON-TYPE) where `value` is not a list.
    """
    if not isinstance(value, list):
        raise ClipfeatError(
            f"{where}: expected a list of {of}; got {value!r:.60}", code="E-JSON-TYPE"
        )
    for number, item in enumerate(value):
        yield f"{where}: [{number}]", item


def field_items(record: Any, key: str, where: object) -> Iterator[tuple[str, Any]]:
    """Yield (where it is, item) of each item of the list `record[key]`; raises as `field` does."""
    joint = ": " if isinstance(where, Path) else "."
    for number, item in enumerate(field(record, key, list, where)):
        yield f"{where}{joint}{key}[{number}]", item


def require_unicode(text: str, name: str, where: object) -> str:
    """Return `text`; ClipfeatError (E-JSON-UNICODE) where it has half of a surrogate pair.

    JSON can express such a text, but no encoding can.
    """
    if not is_unicode(text):
        raise ClipfeatError(
            f"{where}: {name} has half of a surrogate pair: {text!r:.60}; correct the text",
            code="E-JSON-UNICODE",
        )
    return text
