"""Which shards a part has: a pure function."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore.layout import Part, part_with


@given(st.integers(0, 300), st.integers(1, 40))
def test_parts_have_every_shard_once_and_about_as_many_each(count, of):
    parts = [Part(number, of) for number in range(1, of + 1)]
    assert [shard for part in parts for shard in part.shards(count)] == list(range(count))
    lengths = {len(part.shards(count)) for part in parts}
    assert max(lengths) - min(lengths) <= 1
    for part in parts:
        assert all(part_with(shard, count, of) == part for shard in part.shards(count))


def test_the_text_of_a_part():
    assert Part.parse("3/16") == Part(3, 16)
    assert str(Part(3, 16)) == "3/16"


@pytest.mark.parametrize(
    "text",
    ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/", "1/1000000", "01/4", " 1/4", "x/y", "1/4\n",
     "1/\N{ARABIC-INDIC DIGIT FOUR}"],
)  # fmt: skip
def test_invalid_parts(text):
    with refuses("E-PLAN-PART", repr(text), kind=UsageError):
        Part.parse(text)


def test_the_name_of_the_lock():
    assert Part(3, 16).lock_name == "part-3-of-16.lock"
    assert Part.of_lock("part-3-of-16.lock") == Part(3, 16)
    for name in ("lock", "plan.json", "part-03-of-16.lock", "part-3-of-16.lock.tmp"):
        assert Part.of_lock(name) is None
