"""Read JSON that others wrote, bounded in size and depth, and write JSON of our own.

The standard parser reads it and not a faster one, since the files are not ours: some begin with a
byte-order mark, hold NaN, or hold half of a surrogate pair in one of a million texts.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import ClipfeatError, reason_of
from .files import read_bytes, text_lines, write_atomically
from .text import is_unicode

T = TypeVar("T")
MAX_DATA_BYTES = 1 << 33  # of a file of a data set; the largest, of GQA, have less than 1 GB
MAX_RUN_BYTES = 1 << 28  # of a file that a training run writes
MAX_LINE_BYTES = 1 << 26  # of one record of JSON lines


def parse_json(
    content: bytes | str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Return the value of a JSON text; bytes are UTF-8, with or without a byte-order mark.

    `object_hook` replaces each object as it is parsed, so that not all of it is kept in memory.
    Raises ValueError for anything that is not JSON: bad bytes, nesting too deep for the parser, a
    number of more digits than Python converts.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_hook=object_hook)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python's text has advice for programmers
        raise ValueError("has a number of too many digits") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_json(
    path: Path,
    limit: int = MAX_DATA_BYTES,
    *,
    follow: bool = True,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Return the value of a JSON file of at most `limit` bytes (see `parse_json`).

    Without `follow`, for files in a folder that came from elsewhere, a symbolic link is an error
    too. Raises ClipfeatError (E-JSON-READ) for a file that cannot be read or is not JSON.
    """
    try:
        return parse_json(read_bytes(path, limit, follow=follow), object_hook)
    except (OSError, ValueError) as error:
        raise ClipfeatError(
            f"{path}: not a readable JSON file ({reason_of(error)})", code="E-JSON-READ"
        ) from None


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (file and line number, value) of each line of a file, except blank lines.

    Raises ClipfeatError (E-JSON-READ) for a file that cannot be read, a line that is not JSON, and
    a line of more than MAX_LINE_BYTES.
    """
    try:
        for number, text in text_lines(path, MAX_LINE_BYTES):
            if text.strip():
                try:
                    value = parse_json(text)
                except ValueError as error:
                    raise ClipfeatError(
                        f"{path}, line {number} is not JSON ({error}); is the file cut off?",
                        code="E-JSON-READ",
                    ) from None
                yield f"{path}, line {number}", value
    except OSError as error:
        raise ClipfeatError(
            f"{path}: cannot be read ({reason_of(error)})", code="E-JSON-READ"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; in ASCII, which can express every text."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def field(record: Any, key: str, kind: type[T], where: object) -> T:
    """Return `record[key]`, which must be of type `kind`; a bool is not an int.

    Raises ClipfeatError that names `where` for a missing key (E-JSON-KEY), and for a record that
    is not an object or a value of another type (E-JSON-TYPE).
    """
    value = _value(record, key, where)
    if type(value) is not kind:
        raise ClipfeatError(
            f"{where}: {key} must be of type {kind.__name__}; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def identifier(record: Any, key: str, where: object) -> int | str:
    """Return `record[key]`, a number or a text; raises ClipfeatError as `field` does."""
    value = _value(record, key, where)
    if type(value) is not int and type(value) is not str:
        raise ClipfeatError(
            f"{where}: {key} must be a number or text; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


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


def _value(record: Any, key: str, where: object) -> Any:
    if type(record) is not dict:
        raise ClipfeatError(
            f"{where}: expected an object with {key!r}; got {record!r:.60}", code="E-JSON-TYPE"
        )
    values = cast(dict[str, Any], record)
    if key not in values:
        keys = ", ".join(map(repr, values))
        raise ClipfeatError(f"{where}: no key {key!r}; found {keys:.200}", code="E-JSON-KEY")
    return values[key]
