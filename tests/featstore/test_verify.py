"""What verify finds at each depth: sizes, then every byte, then every number."""

import numpy as np
import pytest
from hostile import forge_column, reconcile
from stores import encoded_records, make_identity, make_store, shapes_of, write_encoded

from clipfeat.featstore import FeatureStore, GridShape
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Grids, lay_out

RNG = np.random.default_rng(0)
RECORDS = {f"i{k}": RNG.standard_normal((2, 3, 4)).astype(np.float16) for k in range(6)}
SHAPE = GridShape(2, 3)
SHARD = "features.zarr/2x3/grid/c.0.0.0.0"
LAST = "features.zarr/2x3/grid/c.1.0.0.0"


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


def write(path, codec, records):
    """Write a store whose hashes are all right, whatever its records contain."""
    identity = make_identity(4, codec)
    layout = lay_out(Grids.of(shapes_of(records)), 4)
    return write_encoded(path, identity, layout, encoded_records(identity, records)).path


def found(path, depth):
    return [(problem.path, problem.problem) for problem in verify(path, depth)]


class TestQuick:
    """Sizes and presence, whatever the number of bytes."""

    def test_a_changed_byte_is_not_found(self, tmp_path, codec):
        path = make_store(tmp_path / "s", RECORDS, codec)
        content = bytearray((path / SHARD).read_bytes())
        content[5] ^= 1
        (path / SHARD).write_bytes(content)
        assert found(path, Depth.QUICK) == []
        assert [name for name, _ in found(path, Depth.FULL)] == [SHARD]

    def test_a_truncated_shard_is_found(self, tmp_path, codec):
        path = make_store(tmp_path / "s", RECORDS, codec)
        size = (path / SHARD).stat().st_size
        (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-1])
        says = f"has {size - 1} bytes; the packing list says {size}"
        assert found(path, Depth.QUICK) == [(SHARD, says)]

    @pytest.mark.parametrize(
        "name",
        [
            SHARD,
            "index.parquet",
            "features.zarr/zarr.json",
            "features.zarr/2x3/zarr.json",
            "features.zarr/2x3/grid/zarr.json",
        ],
    )
    def test_a_deleted_file_is_found(self, tmp_path, name):
        path = make_store(tmp_path / "s", RECORDS)
        (path / name).unlink()
        assert found(path, Depth.QUICK) == [(name, "the file is missing")]

    def test_an_extra_file_is_found(self, tmp_path):
        path = make_store(tmp_path / "s", RECORDS)
        (path / "features.zarr/2x3/grid/c.2.0.0.0").touch()
        assert [name for name, _ in found(path, Depth.QUICK)] == [
            "features.zarr/2x3/grid/c.2.0.0.0"
        ]

    def test_no_shard_is_opened(self, tmp_path, monkeypatch):
        path = make_store(tmp_path / "s", RECORDS)
        opened = []
        monkeypatch.setattr("clipfeat.featstore.shards.open_plain", opened.append)
        assert found(path, Depth.QUICK) == []
        assert opened == []


class TestDeep:
    """What is wrong although every hash is right."""

    def check(self, path, name, problem):
        assert found(path, Depth.FULL) == []
        assert found(path, Depth.DEEP) == [(name, problem)]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_record_with_nan_or_inf(self, tmp_path, codec, value):
        records = {image_id: grid.copy() for image_id, grid in RECORDS.items()}
        records["i5"][1, 2, 3] = value
        path = write(tmp_path / "s", codec, records)
        self.check(path, LAST, "record 1 (i5) holds NaN or Inf")

    def test_a_record_of_an_id_that_has_none_in_the_index(self, tmp_path, codec):
        path = write(tmp_path / "s", codec, RECORDS)
        # The id has no record according to the index; its bytes were written nevertheless.
        statuses = [*["ok"] * 4, "missing", "ok"]
        checks = [row.checksum for row in FeatureStore.open(path).index]
        forge_column(path, "index", "status", statuses)
        forge_column(path, "index", "checksum", [*checks[:4], "", checks[5]])
        reconcile(path)
        self.check(path, LAST, "record 0 is present, but it is missing in the index")

    def test_a_record_that_is_absent_for_an_ok_id(self, tmp_path, codec):
        path = make_store(tmp_path / "s", {**RECORDS, "i2": None}, codec, shape=SHAPE)
        checks = [row.checksum for row in FeatureStore.open(path).index]
        forge_column(path, "index", "status", ["ok"] * 6)
        forge_column(path, "index", "checksum", [*checks[:2], "00000000", *checks[3:]])
        reconcile(path)
        self.check(path, SHARD, "record 2 is absent, but it is ok in the index")

    def test_a_checksum_of_another_record(self, tmp_path, codec):
        path = write(tmp_path / "s", codec, RECORDS)
        checks = [row.checksum for row in FeatureStore.open(path).index]
        forge_column(path, "index", "checksum", [checks[1], checks[0], *checks[2:]])
        reconcile(path)
        assert found(path, Depth.FULL) == []
        [(name, problem)] = found(path, Depth.DEEP)
        assert name == SHARD
        assert f"checksum is {checks[0]}, but the index has {checks[1]}" in problem

    def test_shards_that_are_broken_already_are_not_decoded(self, tmp_path, codec):
        path = write(tmp_path / "s", codec, RECORDS)
        (path / SHARD).write_bytes((path / SHARD).read_bytes()[::-1])
        [(name, problem)] = found(path, Depth.DEEP)
        assert name == SHARD
        assert problem.startswith("sha256 is ")

    def test_the_ids_whose_records_are_lost_are_named(self, tmp_path, codec):
        path = write(tmp_path / "s", codec, RECORDS)
        (path / LAST).unlink()
        [problem] = verify(path, Depth.DEEP)
        assert problem.ids == ("i4", "i5")
        assert problem.to_json()["shard"] == LAST
        assert problem.text().startswith(f"{LAST}: the file is missing (2 records); type: clipfeat")
