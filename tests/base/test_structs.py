"""Structs from parsed JSON: what fits, and what an error says of what does not."""

import copy
import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from clipfeat.base.jsonio import as_struct, canonical_json, check_fields


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}\Z", description="four hex digits")]


class Circle(msgspec.Struct, frozen=True, tag="circle", tag_field="kind"):
    radius: Annotated[int, Meta(ge=1, le=9)]


class Box(msgspec.Struct, frozen=True, tag="box", tag_field="kind", forbid_unknown_fields=True):
    sides: tuple[int, int]


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: Literal["float16", "float32"]
    dim: Annotated[int, Meta(ge=1, le=9)] | None


class Outer(msgspec.Struct, frozen=True):
    inner: Inner
    hashes: list[Hash]
    counts: dict[Colour, Annotated[int, Meta(ge=0)]]
    shapes: list[Circle | Box] = []
    anything: dict[str, Any] = {}


VALUE: dict[str, Any] = {
    "inner": {"dtype": "float16", "dim": None},
    "hashes": ["00ff"],
    "counts": {"red": 1},
    "shapes": [{"kind": "circle", "radius": 2}, {"kind": "box", "sides": [1, 2]}],
    "unknown": [1],
}


def test_what_fits_becomes_a_struct():
    outer = as_struct(VALUE, Outer)
    assert outer.inner == Inner("float16", None)
    assert outer.counts[Colour.RED] == 1
    assert outer.shapes == [Circle(2), Box((1, 2))]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("inner", 5, "inner: expected object; got 5"),
        ("inner.dim", True, "inner.dim: expected int | null; got True"),
        ("inner.dim", 1.0, "inner.dim: expected int | null; got 1.0"),
        ("inner.dim", 10, "inner.dim: expected int <= 9; got 10"),
        ("inner.dtype", "float6", "inner.dtype: expected one of float16, float32; got 'float6'; "
                                  "did you mean float16?"),
        ("inner.dtyp", 1, "inner: no such key 'dtyp'; did you mean dtype?"),
        ("inner.zzz", 1, "inner: no such key 'zzz'; the keys are dtype, dim"),
        ("hashes.0", "00FF", "hashes.0: expected four hex digits; got '00FF'"),
        ("hashes.0", "00ff\n", "hashes.0: expected four hex digits; got '00ff\\n'"),
        ("hashes", {}, "hashes: expected array; got {}"),
        ("counts.red", -1, "counts: expected int >= 0; got {'red': -1}"),
        ("counts.redd", 1, "counts: expected one of red, blue; got {'red': 1, 'redd': 1}"),
        ("shapes.0.kind", "circel", "shapes.0.kind: expected one of circle, box; got 'circel'; "
                                    "did you mean circle?"),
        ("shapes.0.radius", 0, "shapes.0.radius: expected int >= 1; got 0"),
        ("shapes.1.sides.1", "2", "shapes.1.sides.1: expected int; got '2'"),
        ("shapes.1.sides", [1], "shapes.1.sides: expected array of length 2; got [1]"),
        ("shapes.1.radius", 2, "shapes.1: no such key 'radius'; the keys are sides"),
        ("anything", [], "anything: expected object; got []"),
    ],
)  # fmt: skip
def test_an_error_names_key_rule_and_value(place, value, message):
    changed: Any = copy.deepcopy(VALUE)
    target = changed
    *keys, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in keys:
        target = target[key]
    target[last] = value
    with pytest.raises(ValueError, match=":") as refused:
        as_struct(changed, Outer)
    assert str(refused.value) == message
    with pytest.raises(ValueError, match=":") as refused:
        as_struct(changed, Outer, "whole")
    assert str(refused.value) == f"whole.{message}"


def test_a_missing_key_and_a_whole_value_are_named_too():
    with pytest.raises(ValueError, match=r"^whole: the key inner is missing$"):
        as_struct({}, Outer, "whole")
    with pytest.raises(ValueError, match=r"^expected object; got \[1\]$"):
        as_struct([1], Outer)


def test_a_constructed_struct_can_be_checked():
    check_fields(Inner("float16", 3), "inner")
    with pytest.raises(ValueError, match=r"^inner.dim: expected int <= 9; got 10$"):
        check_fields(Inner("float16", 10), "inner")


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1, 1.0], "a": "é"}) == b'{"a":"\\u00e9","b":[1,1.0]}'
