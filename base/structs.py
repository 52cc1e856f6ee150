"""Parsed JSON and TOML as typed structs, with errors that name the key, the rule and the value."""

import difflib
import json
import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")
STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")  # of a path like $.files[0].sha256


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys, no spaces and ASCII only: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def as_struct(value: Any, kind: type[T], name: str = "") -> T:
    """Return parsed JSON or TOML as `kind`, a msgspec struct or another type that msgspec knows.

    Nothing is converted: 1.0 is not an integer, and "1" is not a number. Raises ValueError such as
    "identity.dim: expected int <= 65536; got 100000" for a value that does not fit; `name` is what
    the whole value is called. A type with a `Meta(description=...)` is named by it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(str(error), value, inspect.type_info(kind), name)) from None


def check_fields(struct: msgspec.Struct, name: str) -> None:
    """Raise ValueError unless `as_struct` would take the value of each field.

    For `__post_init__`: constructing a struct checks nothing by itself.
    """
    for field in msgspec.structs.fields(struct):
        as_struct(getattr(struct, field.name), field.type, f"{name}.{field.name}")


def _explain(message: str, value: Any, kind: inspect.Type, whole: str) -> str:
    """Return msgspec's message in plain words, with the value that it is about.

    `value` and `kind` are the whole value and its type, `whole` its name. The path that msgspec
    gives has no keys of a dict.
    """
    rule, _, path = message.partition(" - at ")
    path, in_dict, _ = path.partition("[...]")
    names: list[str] = [key or index for key, index in STEP.findall(path)]
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
        known = [field.encode_name for field in struct.fields] if struct else []
        key = rule.split("`", 1)[1][:-1]
        hint = _hint(key, known) or f"; the keys are {', '.join(known) or 'none'}"
        return f"{prefix}no such key {key!r:.80}{hint}"
    if rule.startswith("Invalid ") and (choices := _choices(kind)):
        hint = _hint(str(value), choices)
        return f"{prefix}expected one of {', '.join(choices)}; got {value!r:.80}{hint}"
    expected = re.sub(", got .*", "", rule.removeprefix("Expected ")).replace("`", "")
    if isinstance(kind, inspect.Metadata):
        expected = (kind.extra_json_schema or {}).get("description", expected)
    return f"{prefix}expected {expected}; got {value!r:.80}"


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _inner(value: Any, kind: inspect.Type, name: str) -> tuple[Any, inspect.Type]:
    """Return the value and the type of a field `name`, or of a list's item of that number."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    struct = _struct_of(value, kind)
    if struct is None and name.isdigit():
        item_types = getattr(kind, "item_types", None)
        item = item_types[int(name)] if item_types else getattr(kind, "item_type", kind)
        return value[int(name)], item
    types = {field.encode_name: field.type for field in struct.fields} if struct else {}
    return value.get(name), types.get(name, kind)


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _struct_of(value: Any, kind: inspect.Type) -> inspect.StructType | None:
    """Return the struct that `value` should be: of several, the one whose tag it has."""
    for member in _members(kind):
        if isinstance(member, inspect.StructType):
            tag_field = member.tag_field
            if tag_field is None or (
                isinstance(value, dict) and value.get(tag_field) == member.tag
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
