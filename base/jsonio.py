"""JSON: read in bounded size and depth, written, and checked against types, with good errors.

Files from elsewhere are parsed by the standard library and not by msgspec, which rejects a file
with a byte-order mark, with NaN, or with half a surrogate pair in one of a million texts.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import msgspec
from msgspec import inspect

from .errors import ClipfeatError, reason_of
from .files import read_bytes, text_lines, write_atomically
from .text import is_unicode

T = TypeVar("T")
MAX_DATA_BYTES = 1 << 33  # of a file of a data set; the largest, of GQA, have less than 1 GB
MAX_RUN_BYTES = 1 << 28  # of a file that a training run writes
MAX_LINE_BYTES = 1 << 26  # of one record of JSON lines
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
