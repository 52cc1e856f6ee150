"""The layout is a pure function: every id once, sorted, in shards of the size asked for."""

from hypothesis import given
from hypothesis import strategies as st

from clipfeat.featstore import GridShape
from clipfeat.featstore.layout import Shard, lay_out

SHAPES = st.sampled_from([GridShape(14, 14), GridShape(12, 20), GridShape(20, 12)])


def test_by_hand():
    wide, tall = GridShape(2, 3), GridShape(3, 2)
    layout = lay_out({"d": wide, "b": tall, "a": wide, "c": wide}, shard_records=2)
    assert layout.shards == (
        Shard(0, wide, 0, 0, ("a", "c"), range(2)),
        Shard(1, wide, 1, 2, ("d",), range(2, 3)),
        Shard(2, tall, 0, 0, ("b",), range(1)),
    )
    assert layout.records == {wide: 3, tall: 1}
    assert layout.shards[1].path("grid") == "features.zarr/2x3/grid/c.1.0.0.0"
    assert layout.shards[1].path("pooled") == "features.zarr/2x3/pooled/c.1.0"


@given(st.dictionaries(st.text(min_size=1), SHAPES, min_size=1), st.integers(1, 9))
def test_every_id_has_one_row(shapes, shard_records):
    layout = lay_out(shapes, shard_records)
    placed = {}
    for number, shard in enumerate(layout.shards):
        assert shard.number == number
        assert shard.first_row == shard.index * shard_records
        assert 1 <= len(shard.ids) <= shard_records
        for position, image_id in enumerate(shard.ids):
            assert shapes[image_id] == shard.shape
            placed[image_id] = (shard.shape, shard.first_row + position)
    assert len(set(placed.values())) == len(shapes) == sum(layout.records.values())
    for shape, count in layout.records.items():
        rows = sorted((row, i) for i, (s, row) in placed.items() if s == shape)
        assert [row for row, _ in rows] == list(range(count))
        assert [i for _, i in rows] == sorted(i for _, i in rows)


@given(st.dictionaries(st.text(min_size=1), SHAPES, min_size=2), st.integers(1, 9))
def test_the_fingerprint_tells_layouts_apart(shapes, shard_records):
    layout = lay_out(shapes, shard_records)
    reordered = dict(reversed(shapes.items()))
    assert lay_out(reordered, shard_records).fingerprint() == layout.fingerprint()
    fewer = dict(list(shapes.items())[1:])
    assert lay_out(fewer, shard_records).fingerprint() != layout.fingerprint()
    assert lay_out(shapes, shard_records + 1).fingerprint() != layout.fingerprint()
