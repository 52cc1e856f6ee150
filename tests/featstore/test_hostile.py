"""Stores made to harm: each is refused with a clear error, in bounded memory, and writes nothing.

`reseal` makes a store's own hashes fit again, so that what is tested is what stands behind them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys

import limited_reader
import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import change_receipt, forge_column, reseal
from refused import refuses
from stores import (
    encoded_records,
    extend_store,
    files_of,
    make_identity,
    make_pooled_store,
    make_store,
    shapes_of,
    snapshot,
    write_encoded,
    write_shard,
)

from clipfeat.featstore import CorruptStoreError, FeatureStore, GridShape, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.repair import repair
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.lookup import SHAPE_BIT, STATUS_BIT, _hashes, _seal
from clipfeat.featstore.shards import ABSENT, crc32c, encode, encode_index
from clipfeat.featstore.tables import INDEX_SCHEMA, SHARDS_SCHEMA
from clipfeat.featstore.writing.parts import MissingShards, commit_parts
from clipfeat.featstore.writing.run import finished_store
from clipfeat.featstore.writing.writer import StoreWriter

RNG = np.random.default_rng(0)
SHARD = "features.zarr/3x4/grid/c.0.0.0.0"


def grids(count, rows=3, cols=4, dim=8):
    return {
        f"image{k:03}": RNG.standard_normal((rows, cols, dim)).astype(np.float16)
        for k in range(count)
    }


NO_COUNTS = dict.fromkeys(["ok", "missing", "undecodable", "too_large", "unsupported", "failed"], 0)
NESTED: dict[str, object] = {}
for _ in range(300):
    NESTED = {"": NESTED}


@pytest.fixture(autouse=True)
def beside(tmp_path):
    """A folder beside the store, which no store may make anything write into or delete from."""
    folder = tmp_path / "beside"
    (folder / "grid").mkdir(parents=True)
    for name in ("precious.txt", "plan.json", "00000000.receipt", ".x.tmp", "grid/c.0.0.0.0"):
        (folder / name).write_text("precious")
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "s", grids(3))


def outcome(path):
    """Return what verify in full and in depth says of a store, without any other exception.

    Neither they nor a reader write anything.
    """
    before = snapshot(path)
    problems = []
    for depth in Depth:
        try:
            problems += [problem.text() for problem in verify(path, depth)]
        except StoreError as error:
            problems.append(str(error))
    try:
        opened = FeatureStore.open(path)
        for image_id in opened.ids:
            opened.read([image_id])
        problems += [shard.path for shard in opened.shards if shard.path == ""]
    except StoreError as error:
        problems.append(str(error))
    assert snapshot(path) == before
    return problems


class TestOpenRefuses:
    def test_nothing_there(self, tmp_path):
        with refuses("E-STORE-ABSENT", "none does not exist", kind=StoreError):
            FeatureStore.open(tmp_path / "none")

    def test_another_folder(self, tmp_path):
        with refuses("E-STORE-ABSENT", f"{tmp_path} is not a feature store", kind=StoreError):
            FeatureStore.open(tmp_path)

    def test_an_unfinished_store(self, tmp_path):
        (make_store(tmp_path / "s", grids(3)) / "store.json").unlink()
        (tmp_path / "s" / "journal").mkdir()
        with refuses("E-STORE-UNFINISHED", "run the same clipfeat extract", kind=StoreError):
            FeatureStore.open(tmp_path / "s")

    @pytest.mark.parametrize(
        ("number", "remedy"), [(1, "extract the images again"), (3, "a newer clipfeat")]
    )
    def test_another_format(self, tmp_path, number, remedy):
        reseal(make_store(tmp_path / "s", grids(3)), format=number)
        with refuses("E-STORE-FORMAT", f"format {number}", "format 2", remedy, kind=StoreError):
            FeatureStore.open(tmp_path / "s")

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            ({"digest": 5}, "digest: 5"),
            ({"shard_records": 0}, "shard_records: >=1 0"),
            ({"shard_records": True}, "shard_records: int True"),
            ({"created": None}, "created: str None"),
            ({"generation": -1}, "generation: -1"),
            ({"tables": {"index": "../../etc/passwd"}}, "tables: sha256 '../../etc/passwd'"),
            ({"tables": {"index": "0" * 64}}, "tables index, shards, lookup"),
            ({"identity": {}}, "identity: backbone missing"),
            ({"counts": {"ok": 3}}, "counts ok, missing, undecodable,"),
            ({"counts": {"ok": 2**62}}, "counts: 4611686018427387904"),
            ({"grid_shapes": {"4096x4096": 3}}, "grid_shapes: 4096x4096 134,217,728"),
            ({"grid_shapes": {"9999999999x1": 3}}, "4096 9999999999x1"),
            ({"grid_shapes": {"3x4": 2**62}}, "grid_shapes: '3x4' 4611686018427387904"),
            ({"grid_shapes": {f"1x{k}": 1 for k in range(1, 4097)} | {"2x1": 1}}, "<=4096"),
            ({"grid_shapes": {"03x4": 3}}, "14x14 '03x4'"),
            ({"grid_shapes": {"3x4": 3.0}}, "grid_shapes: int 3.0"),
            ({"shard_records": 2**62}, "shard_records: <=1048576"),
            ({"shard_records": 10**4000}, "shard_records: <=1048576"),
            ({"counts": {**NO_COUNTS, "ok": 0}}, "counts 1099511627776"),
            ({"counts": {**NO_COUNTS, "ok": 10**4000}}, "counts: <=1099511627775"),
            ({"identity": make_identity(8).to_json() | {"dim": 10**9}}, "identity.dim: <=65536"),
            ({"identity": make_identity(8).to_json() | {"dtype": ["float16"]}}, "identity.dtype:"),
            ({"libraries": {"torch": 2}}, "libraries: 2"),
            ({"about": {"title": 5}}, "about.title: 5"),
            ({"about": {"note": "x"}}, "about: 'note'"),
            ({"documents": {"../x": "0" * 64}}, "documents: '../x'"),
            ({"loss": {"largest": 0.0}}, "loss: cosine_distance"),
            ({"identity": {"backbone": {}}}, "identity: recipe"),
        ],
    )
    def test_strange_metadata(self, tmp_path, change, names):
        reseal(make_store(tmp_path / "s", grids(3)), **change)
        with refuses("E-STORE-METADATA", "store.json: ", kind=CorruptStoreError) as refused:
            FeatureStore.open(tmp_path / "s")
        for name in names.split():
            assert name in str(refused.value).replace("= ", "="), refused.value

    @pytest.mark.parametrize(
        "change",
        [
            {"libraries": NESTED},
            {"note": NESTED},
            {"identity": make_identity(8, recipe=NESTED).to_json()},
        ],
    )
    def test_metadata_that_is_nested_too_deeply(self, tmp_path, change):
        reseal(make_store(tmp_path / "s", grids(3)), **change)
        with refuses("E-STORE-JSON", "64 levels", kind=CorruptStoreError):
            FeatureStore.open(tmp_path / "s")

    def test_keys_that_are_not_known_are_ignored(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        reseal(store, annotations={"a": [1]})
        assert len(FeatureStore.open(store)) == 3
        assert verify(store) == []

    def test_more_ids_than_the_lookup_has(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        counts = json.loads((store / "store.json").read_text())["counts"]
        reseal(store, counts={**counts, "ok": 2**39})
        with refuses("E-LOOKUP-SIZE", "112 bytes", "549755813888", kind=CorruptStoreError):
            FeatureStore.open(store)

    @pytest.mark.parametrize("content", ["[" * 100_000, "", "\0", " " * (1 << 23)])
    def test_store_json_beyond_reason(self, tmp_path, content):
        (make_store(tmp_path / "s", grids(3)) / "store.json").write_text(content)
        with refuses("E-STORE-JSON", "store.json", kind=CorruptStoreError):
            FeatureStore.open(tmp_path / "s")


class TestForgedTables:
    """Tables whose hashes fit, but whose content does not."""

    @pytest.mark.parametrize(
        ("path", "first_row", "records"),
        [
            ("../secret", 0, 3),
            ("/etc/passwd", 0, 3),
            ("features.zarr/3x4/grid/../../../c.0.0.0.0", 0, 3),
            ("features.zarr/9x9/grid/c.0.0.0.0", 0, 3),
            ("features.zarr/3x4/grid/c.0.0.0.0", 4, 3),
            ("features.zarr/3x4/grid/c.0.0.0.0", 0, 2**62),
        ],
    )
    def test_a_packing_list_that_points_elsewhere(self, tmp_path, path, first_row, records):
        store = make_store(tmp_path / "s", grids(3))
        (tmp_path / "secret").write_bytes((store / SHARD).read_bytes())
        forge_column(store, "shards", "path", [path])
        forge_column(store, "shards", "first_row", [first_row])
        forge_column(store, "shards", "records", [records])
        with refuses("E-TABLE-SHARD", repr(path), kind=CorruptStoreError):
            assert FeatureStore.open(store).shards
        assert [problem.path for problem in verify(store)] == ["shards.parquet"]

    @pytest.mark.parametrize("ids", [["image000"] * 3, ["image001", "image000", "image002"]])
    def test_ids_twice_or_out_of_order(self, tmp_path, ids):
        store = make_store(tmp_path / "s", grids(3))
        forge_column(store, "index", "image_id", ids)
        with refuses("E-TABLE-ORDER", "'image000'", kind=CorruptStoreError):
            list(FeatureStore.open(store).index)
        for depth in (Depth.FULL, Depth.DEEP):
            assert "index.parquet" in {problem.path for problem in verify(store, depth)}

    def test_a_null(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        forge_column(store, "index", "reason", ["", None, ""])
        with refuses("E-TABLE-FILE", "index.parquet", "null", kind=CorruptStoreError):
            list(FeatureStore.open(store).index)

    def test_a_text_beyond_reason(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        forge_column(store, "index", "reason", ["", "x" * 10**8, ""])
        with refuses("E-TABLE-FILE", "100,000,000 bytes", kind=CorruptStoreError):
            list(FeatureStore.open(store).index)

    @pytest.mark.parametrize("table", ["index", "shards"])
    def test_a_table_that_is_not_parquet(self, tmp_path, table):
        store = make_store(tmp_path / "s", grids(3))
        (store / f"{table}.parquet").write_bytes(b"PAR1 and so on")
        reseal(store)
        with refuses("E-TABLE-FILE", f"{table}.parquet", kind=CorruptStoreError):
            list(getattr(FeatureStore.open(store), table))

    def test_a_table_with_other_columns(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        table = pq.read_table(store / "index.parquet").drop_columns(["status"])
        pq.write_table(table, store / "index.parquet")
        reseal(store)
        with refuses("E-TABLE-FILE", "image_id string, status string", kind=CorruptStoreError):
            list(FeatureStore.open(store).index)


FILES = [
    "store.json",
    "index.parquet",
    "shards.parquet",
    "lookup.bin",
    "features.zarr/zarr.json",
    "features.zarr/3x4/zarr.json",
    "features.zarr/3x4/grid/zarr.json",
    SHARD,
]
FOLDERS = ["features.zarr", "features.zarr/3x4", "features.zarr/3x4/grid"]


def mend_and_extend(path, records):
    """Do all that writes into a store, which may refuse, but only with a StoreError."""
    for step in (lambda: repair(path), lambda: extend_store(path, records)):
        with contextlib.suppress(StoreError):
            step()


class TestLinks:
    """A link in a store may lead anywhere: nothing is read, written or deleted through one."""

    @pytest.mark.parametrize("name", FILES + FOLDERS)
    def test_a_link_in_the_place_of_what_the_store_holds(self, store, tmp_path, name):
        outside = tmp_path / "outside"
        outside.mkdir()
        (store / name).rename(outside / "moved")
        (store / name).symlink_to(outside / "moved")
        before = snapshot(outside)
        assert "store.json" in name or outcome(store) != []
        assert verify(store) != []
        if name in (SHARD, *FOLDERS):
            with refuses("E-STORE-LINK", kind=CorruptStoreError):
                FeatureStore.open(store)["image000"]
        mend_and_extend(store, {**grids(3), "new": grids(1)["image000"]})
        assert snapshot(outside) == before

    @pytest.mark.parametrize("name", FOLDERS)
    def test_an_unfinished_store_whose_folder_is_a_link_is_not_written_into(
        self, store, beside, name
    ):
        (store / "store.json").unlink()
        (store / "journal").mkdir()
        shutil.rmtree(store / name)
        (store / name).symlink_to(beside)
        with refuses("E-STORE-LINK", name, kind=CorruptStoreError):
            make_store(store, grids(3))

    @pytest.mark.parametrize("name", FOLDERS)
    def test_a_file_in_the_place_of_a_folder_is_named(self, store, name):
        shutil.rmtree(store / name)
        (store / name).write_bytes(b"")
        with refuses("E-STORE-FILE", f"{name}: is a file", kind=CorruptStoreError):
            FeatureStore.open(store)

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_journal_that_is_a_link_is_neither_written_nor_cleared(self, store, beside, finished):
        (store / "journal").symlink_to(beside)
        if not finished:
            (store / "store.json").unlink()
            with refuses("E-STORE-LINK", "journal", kind=StoreError):
                make_store(store, grids(3))
            return
        with refuses("E-STORE-LINK", "journal", kind=StoreError):
            repair(store)
        with refuses("E-STORE-LINK", "journal", kind=StoreError):
            extend_store(store, {**grids(3), "new": grids(1)["image000"]})
        assert [problem.path for problem in verify(store)] == ["journal"]

    def test_links_that_are_called_like_temporary_files_are_left(self, store, beside):
        links = []
        for name in ("lookup.bin", "features.zarr/zarr.json"):
            (store / name).write_bytes(b"")
            links.append((store / name).with_name(f".{(store / name).name}.0123456789abcdef.tmp"))
            links[-1].symlink_to(beside / "precious.txt")
        names = sorted(link.relative_to(store).as_posix() for link in links)
        assert sorted(problem.path for problem in repair(store).left) == names
        extend_store(store, {**grids(3), "new": grids(1)["image000"]})
        assert sorted(problem.path for problem in verify(store)) == names
        assert all(link.is_symlink() for link in links)

    def test_a_link_that_belongs_to_nothing_is_named_and_not_followed(self, store, beside):
        (store / "features.zarr/3x4/more").symlink_to(beside)
        (store / "round").symlink_to(store)
        assert [problem.path for problem in verify(store)] == ["features.zarr/3x4/more", "round"]
        done = repair(store)
        assert done.mended == ()
        assert [problem.path for problem in done.left] == ["features.zarr/3x4/more", "round"]
        assert (store / "round").is_symlink()


class TestOddFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_a_folder_in_the_place_of_a_file(self, store, name):
        (store / name).unlink()
        (store / name).mkdir()
        assert outcome(store) != []
        with contextlib.suppress(StoreError):
            assert name in {problem.path for problem in repair(store).left}
        assert (store / name).is_dir()

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", FILES)
    def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(self, store, name):
        (store / name).unlink()
        os.mkfifo(store / name)
        assert outcome(store) != []
        mend_and_extend(store, grids(3))


class TestForgedLookup:
    """A lookup whose hash and seals fit, with places beyond the store."""

    def forge(self, store, change):
        content = bytearray((store / "lookup.bin").read_bytes())
        columns = np.frombuffer(content, "<u8", offset=16).reshape(4, -1)
        _, place, check, seal = columns
        second = seal ^ _seal(place, check)
        change(columns)
        seal[:] = second ^ _seal(place, check)
        (store / "lookup.bin").write_bytes(content)
        reseal(store)

    @pytest.mark.parametrize(
        ("bits", "code", "name"),
        [
            (3, "E-LOOKUP-PLACE", "row"),
            ((1 << SHAPE_BIT) - 1, "E-LOOKUP-PLACE", "row"),
            (1 << SHAPE_BIT, "E-LOOKUP-PLACE", "grid shape"),
            (4095 << SHAPE_BIT, "E-LOOKUP-PLACE", "grid shape"),
            (6 << STATUS_BIT, "E-LOOKUP-PLACE", "status"),
            (4095 << STATUS_BIT, "E-LOOKUP-PLACE", "status"),
            (1 << STATUS_BIT, "E-STORE-NO-RECORD", "missing"),
        ],
    )
    def test_a_place_beyond_the_store(self, store, bits, code, name):
        self.forge(store, lambda columns: columns[1].__setitem__(slice(None), bits))
        for image_id in ("image000", "image001"):
            with refuses(code, name, kind=StoreError):
                FeatureStore.open(store)[image_id]
        assert ("lookup.bin", "is not that of the index") in [
            (p.path, p.problem) for p in verify(store)
        ]
        assert "lookup.bin" in repair(store).mended or verify(store) != []

    @pytest.mark.parametrize(
        "change",
        [
            lambda columns: columns[0].__setitem__(slice(None), columns[0, 0]),
            lambda columns: columns.__setitem__(slice(None), columns[:, ::-1].copy()),
            lambda columns: columns.__setitem__(slice(None), 0),
            lambda columns: columns.__setitem__(slice(None), 2**64 - 1),
        ],
        ids=["equal keys", "unsorted", "zeros", "ones"],
    )
    def test_keys_in_no_order_give_no_other_record(self, store, change):
        records = {i: FeatureStore.open(store)[i] for i in ("image000", "image001", "image002")}
        self.forge(store, change)
        opened = FeatureStore.open(store)
        for image_id, grid in records.items():
            with contextlib.suppress(StoreError):
                assert opened[image_id].tobytes() == grid.tobytes()
        assert "lookup.bin" in [problem.path for problem in verify(store)]

    def test_a_place_of_another_record_is_refused_by_its_checksum(self, store):
        records = {i: FeatureStore.open(store)[i] for i in ("image000", "image001", "image002")}
        self.forge(store, lambda columns: columns[1].__setitem__([0, 1], columns[1, [1, 0]]))
        keys = np.frombuffer((store / "lookup.bin").read_bytes(), "<u8", offset=16).reshape(4, -1)[
            0
        ]
        swapped = {i for i in records if _hashes([i])[0][0] in keys[:2]}
        assert len(swapped) == 2
        for image_id in swapped:
            with refuses("E-SHARD-DATA", kind=CorruptStoreError):
                FeatureStore.open(store)[image_id]
        for image_id in records.keys() - swapped:
            assert FeatureStore.open(store)[image_id].tobytes() == records[image_id].tobytes()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("status", ["ok", "ok", "splendid"]),
        ("row", [0, 1, -1]),
        ("row", [0, 1, 2**62]),
        ("row", [0, 1, 1 << SHAPE_BIT]),
        ("row", [0, 1, 1]),
        ("shape", ["3x4", "3x4", "4x3"]),
        ("shape", ["3x4", "3x4", "../.."]),
        ("checksum", ["00000000", "00000000", "no hex"]),
        ("checksum", ["00000000", "00000000", "00" * 12]),
        ("checksum", ["00000000", "00000000", ""]),
        ("checksum", ["00000000", "00000000", "\U0001f600"]),
        ("image_id", ["image000", "image001", ""]),
        ("source", ["a", "b", "../../etc/passwd"]),
        ("width", [0, 0, -(2**31)]),
    ],
)
def test_an_index_row_that_makes_no_sense_is_a_problem_and_no_crash(store, column, values):
    forge_column(store, "index", column, values)
    for depth in (Depth.FULL, Depth.DEEP):
        assert {"index.parquet", "store.json"} & {p.path for p in verify(store, depth)}
    outcome(store)
    mend_and_extend(store, grids(3))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("bytes", [2**62]),
        ("bytes", [-1]),
        ("path", ["features.zarr/3x4/pooled/c.0.0"]),
        ("path", ["features.zarr/3x4/grid/c.00.0.0.0"]),
        ("shape", ["3x5"]),
    ],
)
def test_a_packing_list_that_makes_no_sense(store, column, values):
    forge_column(store, "shards", column, values)
    with refuses("E-TABLE-SHARD", str(values[0]), kind=CorruptStoreError):
        assert FeatureStore.open(store).shards
    assert [problem.path for problem in verify(store)] == ["shards.parquet"]


@pytest.mark.parametrize("table", ["index", "shards"])
@pytest.mark.parametrize("name", ["text", "column name"])
def test_text_that_is_not_utf8(store, table, name):
    path = store / f"{table}.parquet"
    old = pq.read_table(path)
    first = b"image000" if table == "index" else SHARD.encode()
    if name == "text":
        pq.write_table(old, path, compression="none", use_dictionary=False)
    else:
        first = b"path" if table == "shards" else b"image_id"
    content = path.read_bytes()
    assert first in content
    path.write_bytes(content.replace(first, first[:-1] + b"\xff"))
    reseal(store)
    with pytest.raises(CorruptStoreError) as refused:
        list(getattr(FeatureStore.open(store), table))
    assert refused.value.code in ("E-TABLE-FILE", "E-TABLE-SHARD")
    outcome(store)


# Bombs: what is small on disk and huge in memory. One child process with little memory to
# spare meets them all.


def frame(claims, blocks, *, window=None, checksum=b"\0\0\0\0"):
    """Return a zstd frame that says it holds `claims` bytes, of run-length blocks of zeros."""
    descriptor = 3 << 6 | (window is None) << 5 | 1 << 2
    head = b"\x28\xb5\x2f\xfd" + bytes([descriptor])
    head += b"" if window is None else bytes([window])
    body = b""
    for number, size in enumerate(blocks, 1):
        block = (number == len(blocks)) | 1 << 1 | size << 3
        body += block.to_bytes(3, "little") + b"\0"
    return head + claims.to_bytes(8, "little") + body + checksum


HONEST = encode("zstd", np.zeros(192, np.uint8))
RECORD_BOMBS = {
    "a gigabyte of zeros": (frame(1 << 30, [1 << 17] * 8192), "E-SHARD-FRAME: "),
    "claims 4 EB": (frame(1 << 62, [192]), "E-SHARD-FRAME: "),
    "claims little, holds 9 MB": (frame(192, [1 << 17] * 70, window=16 << 3), "E-SHARD-DATA: "),
    "a window of 2 TB": (frame(192, [1 << 17] * 9, window=31 << 3), "E-SHARD-DATA: "),
    "holds less than it claims": (frame(192, [100]), "E-SHARD-DATA: "),
    "holds less than its record": (frame(100, [100]), "E-SHARD-FRAME: "),
    "two frames": (HONEST + HONEST, "E-SHARD-DATA: "),
    "a frame and a hidden one": (
        HONEST[:-4] + b"\0\0\0\0" + b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + bytes(8),
        "E-SHARD-DATA: ",
    ),
    "no size in the header": (
        b"\x28\xb5\x2f\xfd" + bytes([4, 56]) + frame(192, [192])[13:], "E-SHARD-FRAME: "),
    "no checksum": (bytes(numcodecs.Zstd(1).encode(np.zeros(192, np.uint8))), "E-SHARD-FRAME: "),
}  # fmt: skip


def record_bomb(path, content):
    """A store whose record is `content`, with a checksum in the index that fits its end."""
    records = grids(1)
    layout = lay_out(Grids.of(shapes_of(records)), 4)
    identity = make_identity(8)
    write_encoded(path, identity, layout, {"image000": {"grid": content}})
    return path


def rows_of(schema, **values):
    """Return a table of one row, with something in every column."""
    texts = {"status": "ok", "shape": "3x4", "path": SHARD, "sha256": "0" * 64}
    columns = [
        [values.get(f.name, texts.get(f.name, "x") if f.type == pa.string() else 1)] for f in schema
    ]
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema)


def repeated(path, table, schema, rows, groups, column, text):
    """Write a table that says the same row again and again; on disk it is a few kilobytes."""
    one = rows_of(schema)
    columns = []
    for field, value in zip(schema, one.columns, strict=True):
        indices = pa.array(np.zeros(rows, np.int32))
        words = pa.array([text] if field.name == column else value.to_pylist(), field.type)
        columns.append(pa.DictionaryArray.from_arrays(indices, words))
        if not pa.types.is_string(field.type):
            columns[-1] = columns[-1].dictionary_decode()
    wide = pa.table(columns, schema.names)
    with pq.ParquetWriter(path / table, wide.schema, store_schema=False) as writer:
        for _ in range(groups):
            writer.write_table(wide, row_group_size=rows)
    reseal(path)


def claim_rows(path, table, rows):
    """Make a Parquet file say that it has `rows` rows, in its footer and its row groups."""
    name = path / table
    columns = pq.read_table(name)
    repeated_rows = columns.take(pa.array([0] * 77_777))
    pq.write_table(repeated_rows, name, compression="none")
    content = name.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - length], content[-8 - length : -8]
    assert footer.count(varint(77_777)) >= 3
    footer = footer.replace(varint(77_777), varint(rows))
    name.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    reseal(path)


def varint(value):
    """Return a number as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    value <<= 1
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])


def sparse_shard(path):
    """A shard of a terabyte, of nothing, whose index gives its one record all of that."""
    index = np.full((4, 2), ABSENT, "<u8")
    index[0] = 0, 1 << 40
    tail = encode_index(index)
    with (path / SHARD).open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 40)
        file.write(tail)
    forge_column(path, "shards", "bytes", [(1 << 40) + len(tail)])


def sparse_lookup(path):
    """A lookup of eight billion ids, of nothing."""
    ids = 1 << 33
    with (path / "lookup.bin").open("wb") as file:
        file.write(b"clipfeat" + ids.to_bytes(8, "little"))
        file.truncate(16 + 32 * ids)
    counts = json.loads((path / "store.json").read_text())["counts"]
    tables = json.loads((path / "store.json").read_text())["tables"]
    reseal(path, counts={**counts, "ok": ids}, tables=tables)


OTHER_BOMBS = {
    "ten megabytes of text, a million times": (
        lambda path: repeated(
            path, "index.parquet", INDEX_SCHEMA, 1 << 17, 8, "reason", "x" * 10**7
        ),
        "index.parquet: has 1,048,576 rows; expected 1",
    ),
    "the same id, ten million times": (
        lambda path: repeated(path, "index.parquet", INDEX_SCHEMA, 1 << 19, 20, "checksum", ""),
        "index.parquet: has 10,485,760 rows; expected 1",
    ),
    "the same shard, ten million times": (
        lambda path: repeated(path, "shards.parquet", SHARDS_SCHEMA, 1 << 19, 20, "", ""),
        "shards.parquet: has 10,485,760 rows; expected 0 to 1",
    ),
    "an index that says it has 2^60 rows": (
        lambda path: claim_rows(path, "index.parquet", 1 << 60),
        "index.parquet: ",
    ),
    "a packing list that says it has 2^60 rows": (
        lambda path: claim_rows(path, "shards.parquet", 1 << 60),
        "shards.parquet: ",
    ),
    "an index that says it has -1 rows": (
        lambda path: claim_rows(path, "index.parquet", (1 << 63) - 1),
        "index.parquet: ",
    ),
    "a sparse shard": (sparse_shard, "cannot be the shard of"),
    "a sparse lookup": (sparse_lookup, "lookup.bin: "),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """What a process with a gigabyte to spare says of each bomb."""
    folder = tmp_path_factory.mktemp("bombs")
    names = []
    for name, (content, _) in RECORD_BOMBS.items():
        names.append(record_bomb(folder / name, content))
    for name, (build, _) in OTHER_BOMBS.items():
        names.append(make_store(folder / name, grids(1)))
        build(names[-1])
    command = [sys.executable, limited_reader.__file__, *map(str, names)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", RECORD_BOMBS)
def test_a_record_that_is_a_bomb_is_refused(bombs, name):
    code = RECORD_BOMBS[name][1]
    assert any(code in text for text in bombs[name]["read"]), bombs[name]
    assert any(SHARD in text for text in bombs[name]["verify"]), bombs[name]


@pytest.mark.parametrize("name", OTHER_BOMBS)
def test_a_file_that_is_a_bomb_is_refused(bombs, name):
    named = OTHER_BOMBS[name][1]
    assert any(named in text for text in bombs[name]["verify"]), bombs[name]


@pytest.mark.parametrize(
    ("index", "codes"),
    [
        ([[0, 2**63]], ["E-SHARD-INDEX"]),
        ([[2**63, 2**63]], ["E-SHARD-INDEX"]),
        ([[2**64 - 2, 1]], ["E-SHARD-INDEX"]),
        ([[0, ABSENT]], ["E-SHARD-INDEX"]),
        ([[ABSENT, 5]], ["E-SHARD-ABSENT"]),
        ([[0, 0]], ["E-SHARD-DATA", "E-SHARD-FRAME"]),
        ([[0, 5]], ["E-SHARD-DATA", "E-SHARD-FRAME"]),
    ],
)
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_shard_index_with_a_fitting_checksum_that_points_anywhere(tmp_path, codec, index, codes):
    path = make_store(tmp_path / "s", grids(1), codec, shard_size=1)
    content = (path / SHARD).read_bytes()
    (path / SHARD).write_bytes(content[:-20] + encode_index(np.array(index, np.uint64)))
    forge_column(
        path, "shards", "sha256", [hashlib.sha256((path / SHARD).read_bytes()).hexdigest()]
    )
    with pytest.raises(CorruptStoreError) as refused:
        FeatureStore.open(path)["image000"]
    assert refused.value.code in codes
    assert SHARD in {problem.path for problem in verify(path, Depth.DEEP)}


def test_a_raw_record_of_another_image_with_its_own_crc_is_refused(tmp_path):
    path = make_store(tmp_path / "s", grids(1), "none", shard_size=1)
    forged = np.zeros(192, np.uint8)
    content = (path / SHARD).read_bytes()
    (path / SHARD).write_bytes(forged.tobytes() + crc32c(forged) + content[196:])
    with refuses("E-SHARD-DATA", kind=CorruptStoreError):
        FeatureStore.open(path)["image000"]


# Journals of unfinished stores.

GARBAGE = [
    b"",
    b"\0",
    b"null",
    b"[]",
    b"{}",
    b"17",
    b"[" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"\xff\xfe{",
    b"\x81\xa7columns" + b"\x91" * 100_000,  # MessagePack, as receipts are
    b"\x81\xa7columns\xdd\xff\xff\xff\xff",
    b"\x84\xa5shard\x01\xa5files\x90\xa7columns\x90\xa9libraries\x80",
    b"\x84\xa5shard\x01\xa5files\x90\xa7columns\x91\x90\xa9libraries\x80",
    b'{"identity": 1, "shard_records": 4, "layout": "x", "parent": null, "again": []}',
    b'{"identity": {}, "shard_records": 1e9, "layout": [], "parent": {}, "again": 5}',
    b'{"identity": {}, "shard_records": 4, "layout": "x", "parent": null, "again": [[[], {}]]}',
]


def interrupted(path, records):
    """Leave a store with all of its shards and receipts, but without its last step."""
    identity, layout = make_identity(8), lay_out(Grids.of(shapes_of(records)), 4)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            write_shard(path, identity, layout, shard, encoded_records(identity, records))


@pytest.mark.parametrize("content", GARBAGE)
def test_a_plan_that_is_garbage_is_refused_clearly(tmp_path, content):
    records = grids(6)
    interrupted(tmp_path / "s", records)
    (tmp_path / "s/journal/plan.json").write_bytes(content)
    with refuses("E-PLAN-INVALID", "plan.json", kind=StoreError):
        make_store(tmp_path / "s", records)
    with refuses("E-STORE-UNFINISHED", kind=StoreError):
        verify(tmp_path / "s")


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_in_the_journal_of_a_finished_store_is_a_problem_that_repair_ends(store, content):
    (store / "journal").mkdir()
    (store / "journal/plan.json").write_bytes(content)
    assert [problem.path for problem in verify(store)] == ["journal"]
    assert repair(store).left == ()
    assert verify(store) == []


@pytest.mark.parametrize("content", GARBAGE)
def test_a_receipt_that_is_garbage_counts_as_not_done(tmp_path, content):
    records = grids(6)
    interrupted(tmp_path / "s", records)
    (tmp_path / "s/journal/00000001.receipt").write_bytes(content)
    assert_written_again(tmp_path, records, pending=[1])


def replaced(*keys_and_value):
    """Return a change of a receipt: the value that stands at some keys becomes another."""
    *keys, last, value = keys_and_value

    def change(receipt):
        target = receipt
        for key in keys:
            target = target[key]
        target[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced("shard", 0),
        replaced("shard", 1.0),
        replaced("files", []),
        replaced("files", {}),
        replaced("files", 0, 0, "../../beside/precious.txt"),
        replaced("files", 0, 0, "/etc/passwd"),
        replaced("files", 0, 1, "192"),
        replaced("files", 0, 1, 10**30),
        replaced("files", 0, 2, "0" * 64),
        replaced("files", 0, 2, None),
        replaced("files", 0, 3, "4x3"),
        replaced("files", 0, 4, 0),
        replaced("files", 0, 5, 4),
        replaced("records", []),
        replaced("records", 0, 0, "image000"),
        replaced("records", 0, 1, "splendid"),
        replaced("records", 0, 1, ["ok"]),
        replaced("records", 0, 2, None),
        replaced("records", 0, 2, "\ud800"),
        replaced("records", 0, 3, "4x3"),
        replaced("records", 0, 4, 5.0),
        replaced("records", 0, 5, 2**40),
        replaced("records", 0, 6, -1),
        replaced("records", 0, 7, 5),
        replaced("records", 0, 8, {}),
        replaced("records", 0, 9, "no hex"),
        replaced("records", 0, 9, ""),
        replaced("records", 0, 9, "00" * 12),
    ],
)
def test_a_receipt_that_cannot_be_counts_as_not_done(tmp_path, change):
    records = grids(6)
    interrupted(tmp_path / "s", records)
    change_receipt(tmp_path / "s/journal/00000001.receipt", change)
    assert_written_again(tmp_path, records, pending=[1])


def test_receipts_of_other_shards_count_as_not_done(tmp_path):
    records = grids(10)
    interrupted(tmp_path / "s", records)
    journal = tmp_path / "s/journal"
    receipts = [journal / f"{number:08}.receipt" for number in range(3)]
    receipts[0].rename(journal / "aside")
    receipts[1].rename(receipts[0])
    (journal / "aside").rename(receipts[1])
    assert_written_again(tmp_path, records, pending=[0, 1])


def test_a_receipt_that_is_a_folder_is_refused_before_anything_is_written(tmp_path):
    records = grids(6)
    interrupted(tmp_path / "s", records)
    (tmp_path / "s/journal/00000001.receipt").unlink()
    (tmp_path / "s/journal/00000001.receipt").mkdir()
    identity, layout = make_identity(8), lay_out(Grids.of(shapes_of(records)), 4)
    with pytest.raises(CorruptStoreError) as refused, StoreWriter(tmp_path / "s", identity, layout):
        pass
    assert refused.value.code == "E-STORE-FILE"
    assert (tmp_path / "s/journal/00000001.receipt").is_dir()


def assert_written_again(tmp_path, records, pending):
    """Resume, and get the store that a run without a break writes."""
    path, identity, layout = (
        tmp_path / "s",
        make_identity(8),
        lay_out(Grids.of(shapes_of(records)), 4),
    )
    with StoreWriter(path, identity, layout) as writer:
        assert [shard.number for shard in writer.pending] == pending
    make_store(path, records)
    assert verify(path, Depth.DEEP) == []
    whole = FeatureStore.open(make_store(tmp_path / "whole", records))
    assert FeatureStore.open(path).digest == whole.digest


def test_a_folder_of_a_hostile_plan_of_an_update_is_refused_or_ignored(store):
    digest = FeatureStore.open(store).digest
    (store / "journal").mkdir()
    plan = {
        "identity": make_identity(8).to_json(),
        "shard_records": 4,
        "layout": "0" * 64,
        "parent": digest,
        "shards": 1,
        "ids": 1,
        "again": [["../../beside", 0], ["3x4", 10**30], ["3x4", -1]],
    }
    (store / "journal/plan.json").write_text(json.dumps(plan))
    finished = finished_store(store, make_identity(8))
    assert finished is not None
    with refuses("E-PLAN-OTHER", kind=StoreError):
        extend_store(store, {**grids(3), "new": grids(1)["image000"]})
    assert GridShape(3, 4) in finished.grid_shapes
    assert files_of(store)[-1] == "store.json"


def test_pooled_vectors_of_another_record_do_not_read(tmp_path):
    records = grids(2)
    pooled = {image_id: RNG.standard_normal(3).astype(np.float16) for image_id in records}
    identity = make_identity(8, pooled_dim=3)
    path = make_pooled_store(tmp_path / "s", identity, records, pooled, 1)
    folder = path / "features.zarr/3x4/pooled"
    shutil.copy(folder / "c.0.0", folder / "c.1.0")
    with refuses("E-SHARD-DATA", kind=CorruptStoreError):
        FeatureStore.open(path).read(["image001"])
    assert FeatureStore.open(path)["image001"].tobytes() == records["image001"].tobytes()


# Files that are huge, or never end.


def sparse(path):
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(100 << 30)


def endless(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("put", [sparse, endless, pipe])
@pytest.mark.parametrize("name", FILES)
def test_a_file_without_an_end_is_not_read_to_it(store, put, name):
    if put is sparse and name == SHARD:
        forge_column(store, "shards", "bytes", [100 << 30])  # as its own packing list says
    put(store / name)
    for depth in Depth:
        with contextlib.suppress(StoreError):
            assert verify(store, depth) or depth == Depth.QUICK
    with contextlib.suppress(StoreError):
        done = repair(store)
        assert done.left or done.mended or done.dropped


@pytest.mark.timeout(60)
@pytest.mark.parametrize("put", [sparse, endless, pipe])
def test_a_journal_without_an_end_is_not_read_to_it(tmp_path, put):
    records, journal = grids(6), tmp_path / "s/journal"
    interrupted(tmp_path / "s", records)
    content = (journal / "00000001.receipt").read_bytes()
    put(journal / "00000001.receipt")
    assert isinstance(commit_parts(tmp_path / "s"), MissingShards)
    (journal / "00000001.receipt").unlink()
    (journal / "00000001.receipt").write_bytes(content)
    plan = (journal / "plan.json").read_bytes()
    put(journal / "plan.json")
    for write in (commit_parts, lambda path: make_store(path, records)):
        with refuses("E-PLAN-INVALID", kind=StoreError):
            write(tmp_path / "s")
    (journal / "plan.json").unlink()
    (journal / "plan.json").write_bytes(plan)
    put(journal / "lock")
    if put is sparse:
        assert isinstance(commit_parts(tmp_path / "s"), FeatureStore)
    else:
        with pytest.raises(OSError, match=r"journal/lock"):
            commit_parts(tmp_path / "s")


@pytest.mark.parametrize(
    ("table", "extra"), [("index", 1), ("index", -1), ("shards", 1)], ids=["more", "fewer", "list"]
)
def test_a_footer_with_another_number_of_rows_is_refused_before_a_row_is_read(store, table, extra):
    path = store / f"{table}.parquet"
    rows = pq.read_table(path)
    rows = pa.concat_tables([rows, rows.slice(0, 1)]) if extra > 0 else rows.slice(0, len(rows) - 1)
    pq.write_table(rows, path)
    reseal(store)
    with refuses("E-TABLE-FILE", f"has {len(rows)} rows", kind=CorruptStoreError):
        list(getattr(FeatureStore.open(store), table))


@pytest.mark.parametrize("value", ["AB" * 32, "ab" * 31, "ab" * 32 + "\n", "\x1b[31m", "g" * 64])
@pytest.mark.parametrize("place", ["source_sha256", "sha256", "receipt", "plan"])
def test_a_text_that_is_not_a_hash_is_refused(tmp_path, store, place, value):
    if place in ("source_sha256", "sha256"):
        table = "index" if place == "source_sha256" else "shards"
        forge_column(store, table, place, [value, "", ""] if table == "index" else [value])
        with pytest.raises(CorruptStoreError) as refused:
            list(getattr(FeatureStore.open(store), table))
        assert refused.value.code == "E-STORE-HASH"
        return
    records = grids(6)
    interrupted(tmp_path / "new", records)
    if place == "plan":
        path = tmp_path / "new/journal/plan.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "layout": value}))
        with refuses("E-PLAN-INVALID", kind=StoreError):
            commit_parts(tmp_path / "new")
    else:
        path = tmp_path / "new/journal/00000001.receipt"
        change_receipt(path, replaced("files", 0, 2, value))
        assert isinstance(commit_parts(tmp_path / "new"), MissingShards)


@pytest.mark.parametrize("folder", ["features.zarr/3x4/grid", "features.zarr/3x4", "journal"])
def test_a_folder_that_became_a_link_while_shards_are_written_is_not_written_into(
    tmp_path, beside, folder
):
    records, identity = grids(6), make_identity(8)
    layout, path = lay_out(Grids.of(shapes_of(records)), 4), tmp_path / "s"
    with StoreWriter(path, identity, layout) as writer:
        first, second = writer.pending
        write_shard(path, identity, layout, first, encoded_records(identity, records))
        (path / folder).rename(tmp_path / "moved")
        (path / folder).symlink_to(beside)
        with pytest.raises(StoreError) as refused:
            write_shard(path, identity, layout, second, encoded_records(identity, records))
        assert refused.value.code == "E-STORE-LINK"
        (path / folder).unlink()
        (tmp_path / "moved").rename(path / folder)
