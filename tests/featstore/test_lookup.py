"""From ids to places: the lookup file and the index of a shard."""

import hashlib
import tracemalloc
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from refused import refuses

from clipfeat.featstore import CorruptStoreError, IndexRow, Status
from clipfeat.featstore import lookup as lookup_module
from clipfeat.featstore.lookup import (
    MAGIC,
    STATUSES,
    Lookup,
    LookupBuilder,
    _hashes,
    _seal,
    lookup_bytes,
)
from clipfeat.featstore.shards import ABSENT, crc32c, decode_index, encode_index
from clipfeat.featstore.tables import index_batch

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", " ", "\0", "\u200b", "\u00e9", "e\u0301", "\U0001f600", "x" * 5000]
)
SHAPES = ["1x1", "14x14", "4096x1"]
CHECKS = st.sampled_from([0, 4, 8]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
ROWS = st.builds(
    lambda image_id, status, shape, row, check: IndexRow(
        image_id, status, "", shape, row, 0, 0, "", "", check.hex()
    ),
    IDS,
    st.sampled_from(list(Status)),
    st.sampled_from(SHAPES),
    st.integers(0, 2**40 - 1),
    CHECKS,
)
ABC = [IndexRow(i, "ok", "", "1x1", k, 0, 0, "", "", "00000000") for k, i in enumerate("abc")]


def columns_of(rows):
    builder = LookupBuilder(SHAPES, {})
    builder.add(index_batch(rows))
    return builder.columns()


def built(path, rows):
    path.write_bytes(lookup_bytes(columns_of(rows)))
    return opened(path, len(rows))


def opened(path, ids):
    return Lookup.open(path, ids, hashlib.sha256(path.read_bytes()).hexdigest())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=30, unique_by=lambda row: row.image_id), st.lists(IDS))
def test_every_id_is_found_where_it_is_and_no_other_is(tmp_path, rows, others):
    lookup = built(tmp_path / "lookup.bin", rows)
    places = lookup.find([row.image_id for row in rows])
    for k, row in enumerate(rows):
        assert STATUSES[places.state[k]] == row.status
        assert SHAPES[places.shape[k]] == row.shape
        assert places.row[k] == row.row
        check = int(places.check[k]).to_bytes(8, "little")
        assert check == bytes.fromhex(row.checksum).ljust(8, b"\0")
    known = {row.image_id for row in rows}

    def is_known(image_id):
        return not known.isdisjoint({image_id, *(normalize(f, image_id) for f in ("NFC", "NFD"))})

    absent = [image_id for image_id in others if not is_known(image_id)] + ["\ud800"]
    assert set(lookup.find(absent).state.tolist()) == {-1}


@pytest.mark.parametrize(
    "change",
    [{"row": -1}, {"row": 2**40}, {"checksum": "00" * 9}, {"checksum": "no hex"}, {"status": "?"}],
)
def test_a_row_that_does_not_fit_is_not_packed(change):
    with pytest.raises(ValueError, match=r"row|checksum|hex|not a valid Status"):
        LookupBuilder(SHAPES, {}).add(index_batch([ABC[0]._replace(**change)]))


def test_ids_that_share_a_key_are_told_apart(tmp_path):
    """Two ids whose sha256 begin alike cannot be found; the file is made to hold three."""
    columns = columns_of(ABC)
    columns[0], _ = _hashes(["b"])  # all have the key of "b"; each keeps its own seal
    (tmp_path / "lookup.bin").write_bytes(lookup_bytes(columns))
    lookup = opened(tmp_path / "lookup.bin", 3)
    assert lookup.find(["b"]).row.tolist() == [1]
    assert lookup.find(["a", "c"]).state.tolist() == [-1, -1]


@pytest.mark.parametrize("column", [1, 2, 3], ids=["place", "check", "seal"])
def test_a_changed_bit_is_damage_and_not_an_unknown_id(tmp_path, column):
    for bit in range(0, 64, 5):
        columns = columns_of(ABC)
        columns[column] ^= np.uint64(1 << bit)
        (tmp_path / "lookup.bin").write_bytes(lookup_bytes(columns))
        lookup = opened(tmp_path / "lookup.bin", 3)
        for image_id in "abc":
            with refuses("E-LOOKUP-SEAL", kind=CorruptStoreError):
                lookup.find([image_id])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        MAGIC + bytes(8) + bytes(32),
        b"clipfart" + (1).to_bytes(8, "little") + bytes(32),
        MAGIC + (1).to_bytes(8, "little") + bytes(33),
    ],
)
def test_a_file_that_is_not_a_lookup_is_refused(tmp_path, content):
    (tmp_path / "lookup.bin").write_bytes(content)
    with refuses("E-LOOKUP-SIZE", f"{len(content)} bytes", "1 ids", kind=CorruptStoreError):
        opened(tmp_path / "lookup.bin", 1)


def test_half_a_million_ids_take_little_memory_to_open_and_to_look_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup_module, "READ_BYTES", 1 << 20)  # so that it is mapped
    count = 500_000
    ids = [f"{k:012}" for k in range(count)]
    key, second = _hashes(ids)
    place = np.arange(count, dtype=np.uint64)
    check = place * np.uint64(3)
    columns = np.stack([key, place, check, second ^ _seal(place, check)])
    (tmp_path / "lookup.bin").write_bytes(lookup_bytes(columns[:, np.argsort(key)]))
    sample = ids[:: count // 511]
    sha256 = hashlib.sha256((tmp_path / "lookup.bin").read_bytes()).hexdigest()
    tracemalloc.start()
    try:
        lookup = Lookup.open(tmp_path / "lookup.bin", count, sha256)
        opened = tracemalloc.get_traced_memory()[1]
        places = lookup.find(sample)
        looked_up = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert places.row.tolist() == [int(image_id) for image_id in sample]
    assert places.check.tolist() == [3 * int(image_id) for image_id in sample]
    assert lookup.find(["unknown"]).state.tolist() == [-1]
    assert opened < 50_000  # bytes; the file has 16,000,000
    assert looked_up < 500_000


ENTRIES = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)) | st.just(
    (ABSENT, ABSENT)
)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=20))
def test_a_shard_index_comes_back(entries):
    index = np.array([*entries, (ABSENT, ABSENT)], np.uint64)
    content = encode_index(index)
    np.testing.assert_array_equal(decode_index(content, 1000 + len(content)), index)


@given(st.lists(ENTRIES, min_size=1, max_size=20), st.integers(0, 2**63))
@example([(2**64 - 2, 2**64 - 1)], 0)
@example([(5, 0)], 5)
@example([(3, 3)], 5)
def test_entries_outside_the_file_are_refused(entries, size):
    content = encode_index(np.array(entries, np.uint64))
    inside = all(offset == ABSENT or offset + n <= size for offset, n in entries)
    if inside:
        decode_index(content, size + len(content))
        return
    with refuses("E-SHARD-INDEX", "outside", kind=CorruptStoreError):
        decode_index(content, size + len(content))


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_are_refused_unless_their_crc32c_fits(content):
    if content[-4:] == crc32c(content[:-4]):
        content = content[:-1] + bytes([content[-1] ^ 1])
    with refuses("E-SHARD-INDEX", "crc32c", kind=CorruptStoreError):
        decode_index(content, len(content))
