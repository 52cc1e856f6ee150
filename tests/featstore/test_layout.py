"""The layout is a pure function: every id once, sorted, in shards of the size asked for."""

from hypothesis import given
from hypothesis import strategies as st

from clipfeat.featstore import GridShape
from clipfeat.featstore.layout import Grids, Ids, Layout, Shard, lay_out

SHAPES = st.sampled_from([GridShape(14, 14), GridShape(12, 20), GridShape(20, 12)])


def test_by_hand():
    wide, tall = GridShape(2, 3), GridShape(3, 2)
    layout = lay_out(Grids.of({"d": wide, "b": tall, "a": wide, "c": wide}), shard_records=2)
    assert layout.shards == (
        Shard(0, wide, 0, 0, 2, Ids.of(["a", "c"]), range(2)),
        Shard(1, wide, 1, 2, 1, Ids.of(["d"]), range(2, 3)),
        Shard(2, tall, 0, 0, 1, Ids.of(["b"]), range(1)),
    )
    assert layout.records == {wide: 3, tall: 1}
    assert layout.shards[1].path("grid") == "features.zarr/2x3/grid/c.1.0.0.0"
    assert layout.shards[1].path("pooled") == "features.zarr/2x3/pooled/c.1.0"


@given(st.dictionaries(st.text(min_size=1), SHAPES, min_size=1), st.integers(1, 9))
def test_every_id_has_one_row(shapes, shard_records):
    layout = lay_out(Grids.of(shapes), shard_records)
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
    layout = lay_out(Grids.of(shapes), shard_records)
    reordered = dict(reversed(shapes.items()))
    assert lay_out(Grids.of(reordered), shard_records).fingerprint() == layout.fingerprint()
    fewer = dict(list(shapes.items())[1:])
    assert lay_out(Grids.of(fewer), shard_records).fingerprint() != layout.fingerprint()
    assert lay_out(Grids.of(shapes), shard_records + 1).fingerprint() != layout.fingerprint()


@given(
    st.dictionaries(st.text(min_size=1), SHAPES, min_size=1),
    st.dictionaries(SHAPES, st.integers(1, 40)),
    st.integers(1, 9),
    st.data(),
)
def test_what_is_added_stands_behind_what_is_there(shapes, taken, shard_records, data):
    again = data.draw(st.lists(redone(taken, shard_records), unique_by=lambda s: s.path("grid")))
    layout = lay_out(Grids.of(shapes), shard_records, taken, tuple(again))
    redo, new = layout.shards[: len(again)], layout.shards[len(again) :]
    assert [shard.number for shard in layout.shards] == list(range(len(layout.shards)))
    for before, after in zip(again, redo, strict=True):
        same = (before.shape, before.index, before.first_row, before.ids, before.rows)
        assert same == (after.shape, after.index, after.first_row, after.ids, after.rows)
    for shard in new:
        assert shard.first_row == shard.index * shard_records >= taken.get(shard.shape, 0)
        assert shard.first_row - taken.get(shard.shape, 0) < shard_records * len(new)
        assert list(shard.rows) == [shard.first_row + k for k in range(len(shard.ids))]
        assert all(shapes[image_id] == shard.shape for image_id in shard.ids)
    assert sorted(image_id for shard in new for image_id in shard.ids) == sorted(shapes)
    assert_no_row_twice(layout)
    paths = [shard.path("grid") for shard in layout.shards]
    assert len(set(paths)) == len(paths)
    # The first new shard of a shape is the next one: there is no hole of a whole shard.
    for shape, _ in layout.records.items():
        indexes = sorted(shard.index for shard in new if shard.shape == shape)
        first = -(-taken.get(shape, 0) // shard_records)
        assert indexes == list(range(first, first + len(indexes)))


def redone(taken, shard_records):
    """A shard of taken rows that is written again, with gaps where refused ids were."""
    if not taken:
        return st.nothing()

    def shard(shape, index, size):
        first = index % -(-taken[shape] // shard_records) * shard_records
        end = min(first + shard_records, taken[shape])
        rows = tuple(range(first, end))[-size:]
        ids = Ids.of(f"old {row}" for row in rows)
        return Shard(0, shape, first // shard_records, first, end - first, ids, rows)

    return st.builds(shard, st.sampled_from(sorted(taken)), st.integers(0, 40), st.integers(1, 9))


def assert_no_row_twice(layout: Layout):
    places = [(shard.shape, row) for shard in layout.shards for row in shard.rows]
    assert len(set(places)) == len(places)
