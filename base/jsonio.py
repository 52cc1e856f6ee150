"""JSON: read in bounded size and depth, written, and checked against types, with good errors.

Files from elsewhere are parsed by the standard library and not by msgspec, which rejects a file
with a byte-order mark, with NaN, or with half a surrogate pair in one of a million texts.
"""

import codecs
import difflib
import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast, overload

import msgspec
from msgspec import inspect

from .errors import ClipfeatError, reason_of
from .files import BLOCK_BYTES, naming, open_plain, read_bytes, text_lines, write_atomically
from .gzipped import gzip_lines
from .text import is_unicode

T = TypeVar("T")
MAX_DATA_BYTES = 1 << 33  # of a file of a data set; the largest, of GQA, have less than 1 GB
MAX_RUN_BYTES = 1 << 28  # of a file that a training run writes
MAX_LINE_BYTES = 1 << 26  # of one record of JSON lines
MAX_ITEM_CHARACTERS = 1 << 24  # of one item of a list that is read in parts
DECODER = json.JSONDecoder()
WHITE_SPACE = re.compile(r"[ \t\n\r]+")
AFTER_ITEM = " \t\n\r,]"
CUT_OFF = "the file is cut off"
PATH_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")  # in a path of msgspec, like $.files[0].sha256


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


def read_json_list(path: Path, *, of: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, item) of each item of the list in a JSON file, as `list_items` does.

    A few items are in memory at a time, so the file may be larger than memory. `of` names the items
    in errors. Raises ClipfeatError (E-JSON-READ) for a file that cannot be read or, at the item
    where it is noticed, is not JSON, and for an item of more than MAX_ITEM_CHARACTERS;
    (E-JSON-TYPE) for a file without a list.
    """
    number = 0
    try:
        with os.fdopen(open_plain(path, follow=True), "rb") as file, naming(path):
            reader = _ValueReader(file)
            if not reader.takes("["):
                yield from list_items(reader.value(), path, of=of)
            elif not reader.takes("]"):
                yield f"{path}: [0]", reader.value()
                while not reader.takes("]"):
                    reader.require(",")
                    number += 1
                    yield f"{path}: [{number}]", reader.value()
            reader.require("")
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else f"item {number}: {error}"
        raise ClipfeatError(
            f"{path}: not a readable JSON file ({reason})", code="E-JSON-READ"
        ) from None


class _ValueReader:
    """Reads a JSON text in blocks, and takes one value or one character after the other from it.

    Raises OSError as `open_plain` does, and ValueError where the text is not JSON.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._bytes = 0  # read so far
        self._text, self._position, self._at_end = "", 0, False

    def takes(self, character: str) -> bool:
        """Return whether this character, "" for the end, is next; if it is, move behind it."""
        found = self._next_character() == character
        if found:
            self._position += len(character)
        return found

    def require(self, character: str) -> None:
        """Move behind a character, "" for the end, which must be next."""
        if not self.takes(character):
            got = repr(self._next_character()) if self._next_character() else CUT_OFF
            raise ValueError(f"expected {repr(character) if character else 'the end'}; got {got}")

    def value(self) -> Any:
        """Return the next value, and move behind it."""
        self._next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if self._at_end:  # else the block may end inside the value
                    raise ValueError(f"{error.msg}, or {CUT_OFF}") from None
            except ValueError:
                raise ValueError("has a number of too many digits") from None
            except RecursionError:
                raise ValueError("is nested too deeply") from None
            else:
                after = self._text[end : end + 1]
                if self._at_end or (after and after in AFTER_ITEM):  # else a number may be cut off
                    self._position = end
                    return value
            if len(self._text) - self._position > MAX_ITEM_CHARACTERS:
                raise ValueError(f"not JSON, or longer than {MAX_ITEM_CHARACTERS:,} characters")
            self._read_more()

    def _next_character(self) -> str:
        """Move behind white space, and return the next character; "" at the end."""
        while True:
            if space := WHITE_SPACE.match(self._text, self._position):
                self._position = space.end()
            if self._position < len(self._text) or self._at_end:
                return self._text[self._position : self._position + 1]
            self._read_more()

    def _read_more(self) -> None:
        """Drop the text before the position, and read at least as much as is left of it."""
        rest = self._text[self._position :]
        block = self._file.read(max(BLOCK_BYTES, len(rest)))
        self._bytes += len(block)
        if self._bytes > MAX_DATA_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {MAX_DATA_BYTES:,} bytes")
        try:
            self._text = rest + self._decode(block, final=not block)
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8 text") from None
        self._position, self._at_end = 0, not block


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (file and line number, value) of each line of a file, except blank lines.

    A file whose name ends in .gz is decompressed. Raises ClipfeatError (E-JSON-READ) for a file that cannot be read, a line that is not JSON, and
    a line of more than MAX_LINE_BYTES.
    """
    try:
        lines = gzip_lines if path.suffix == ".gz" else text_lines
        for number, text in lines(path, MAX_LINE_BYTES):
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


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys, no spaces and ASCII only: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def field(record: Any, key: str, kind: type[T], place: object) -> T:
    """Return `record[key]`, which must be of type `kind`; a bool is not an int.

    Raises ClipfeatError that names `place` for a missing key (E-JSON-KEY), and for a record that
    is not an object or a value of another type (E-JSON-TYPE).
    """
    value = _value(record, key, place)
    if type(value) is not kind:
        raise ClipfeatError(
            f"{place}: {key} must be of type {kind.__name__}; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def identifier(record: Any, key: str, place: object) -> int | str:
    """Return `record[key]`, a number or a text; raises ClipfeatError as `field` does."""
    value = _value(record, key, place)
    if type(value) is not int and type(value) is not str:
        raise ClipfeatError(
            f"{place}: {key} must be a number or text; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def list_items(value: Any, place: object, *, of: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, item) of each item of a list; `of` names the items in errors.

    Raises ClipfeatError (E-JSON-TYPE) if `value` is not a list.
    """
    if not isinstance(value, list):
        raise ClipfeatError(
            f"{place}: expected a list of {of}; got {value!r:.60}", code="E-JSON-TYPE"
        )
    for number, item in enumerate(cast(list[Any], value)):
        yield f"{place}: [{number}]", item


def field_items(record: Any, key: str, place: object) -> Iterator[tuple[str, Any]]:
    """Yield (place, item) of each item of the list `record[key]`; raises as `field` does."""
    joint = ": " if isinstance(place, Path) else "."
    for number, item in enumerate(cast(list[Any], field(record, key, list, place))):
        yield f"{place}{joint}{key}[{number}]", item


def require_unicode(text: str, name: str, place: object) -> str:
    """Return `text`; ClipfeatError (E-JSON-UNICODE) if it contains half a surrogate pair.

    JSON can express such a text, but no encoding can.
    """
    if not is_unicode(text):
        raise ClipfeatError(
            f"{place}: {name} contains half a surrogate pair: {text!r:.60}; correct the text",
            code="E-JSON-UNICODE",
        )
    return text


def _value(record: Any, key: str, place: object) -> Any:
    if type(record) is not dict:
        raise ClipfeatError(
            f"{place}: expected an object with {key!r}; got {record!r:.60}", code="E-JSON-TYPE"
        )
    values = cast(dict[str, Any], record)
    if key not in values:
        keys = ", ".join(map(repr, values))
        raise ClipfeatError(f"{place}: no key {key!r}; found {keys:.200}", code="E-JSON-KEY")
    return values[key]


@overload
def as_struct(value: Any, kind: type[T], name: str = "") -> T: ...
@overload
def as_struct(value: Any, kind: Any, name: str = "") -> Any: ...
def as_struct(value: Any, kind: Any, name: str = "") -> Any:
    """Return parsed JSON or TOML as `kind`, a msgspec struct or another type that msgspec knows.

    Nothing is converted: 1.0 is not an integer, and "1" is not a number. Raises ValueError such as
    "identity.dim: expected int <= 65536; got 100000" for a value that does not fit. In it, `name`
    stands for the whole value, and the description of a type's `Meta` for the type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(str(error), value, inspect.type_info(kind), name)) from None


def check_fields(struct: msgspec.Struct, name: str) -> None:
    """Raise ValueError unless `as_struct` would take the value of each field.

    Call it in `__post_init__`: msgspec does not check the arguments of a constructor.
    """
    for each in msgspec.structs.fields(struct):
        as_struct(getattr(struct, each.name), each.type, f"{name}.{each.name}")


def _explain(message: str, value: Any, kind: inspect.Type, whole: str) -> str:
    """Return msgspec's message in plain words, with the value that it is about.

    `value` and `kind` are the whole value and its type, `whole` is its name. msgspec's paths do not
    contain the keys of a dict.
    """
    rule, _, path = message.partition(" - at ")
    path, in_dict, _ = path.partition("[...]")
    names: list[str] = [key or index for key, index in PATH_STEP.findall(path)]
    for name in names:
        value, kind = _inner(value, kind, name)
    if isinstance(kind, inspect.DictType):
        kind = kind.value_type if in_dict else kind.key_type
    place = ".".join(filter(None, [whole, *names]))
    prefix = f"{place}: " if place else ""
    if rule.startswith("Object missing"):
        return f"{prefix}the key {rule.split('`')[1]} is missing"
    if rule.startswith("Object contains unknown"):
        struct = _struct_of(value, kind)
        known = [each.encode_name for each in struct.fields] if struct else []
        key = rule.split("`", 1)[1][:-1]
        hint = _hint(key, known) or f"; the keys are {', '.join(known) or 'none'}"
        return f"{prefix}no such key {key!r:.80}{hint}"
    if rule.startswith("Invalid ") and (choices := _choices(kind)):
        hint = _hint(str(value), choices)
        return f"{prefix}expected one of {', '.join(choices)}; got {value!r:.80}{hint}"
    expected = re.sub(", got .*", "", rule.removeprefix("Expected ")).replace("`", "")
    if isinstance(kind, inspect.Metadata):
        schema: dict[str, Any] = cast(Any, kind).extra_json_schema or {}
        expected = schema.get("description", expected)
    return f"{prefix}expected {expected}; got {value!r:.80}"


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _inner(value: Any, kind: inspect.Type, name: str) -> tuple[Any, inspect.Type]:
    """Return the value and the type of the field `name`, or of the list item with this number."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    struct = _struct_of(value, kind)
    if struct is None and name.isdigit():
        item_types = getattr(kind, "item_types", None)
        item = item_types[int(name)] if item_types else getattr(kind, "item_type", kind)
        return value[int(name)], item
    types = {each.encode_name: each.type for each in struct.fields} if struct else {}
    return value.get(name), types.get(name, kind)


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _struct_of(value: Any, kind: inspect.Type) -> inspect.StructType | None:
    """Return the struct type of `value`: if there are several, the one with its tag."""
    for member in _members(kind):
        if isinstance(member, inspect.StructType):
            tag_field = member.tag_field
            if tag_field is None or (
                isinstance(value, dict) and cast(dict[str, Any], value).get(tag_field) == member.tag
            ):
                return member
    return None


def _choices(kind: inspect.Type) -> list[str]:
    """Return the values of a literal or an enum, or the tags of structs."""
    choices: list[str] = []
    for member in _members(kind):
        if isinstance(member, inspect.LiteralType):
            choices += map(str, member.values)
        elif isinstance(member, inspect.EnumType):
            choices += [str(choice.value) for choice in member.cls]
        elif isinstance(member, inspect.StructType):
            choices.append(str(member.tag))
    return choices
