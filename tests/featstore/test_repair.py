"""What is broken is removed and written again, and the store has its old digest back."""

import os
from typing import Any, cast

import numpy as np
import pytest
from hostile import reseal
from refused import refuses
from stores import (
    ONE_CELL,
    extend_store,
    files_of,
    make_identity,
    make_pooled_store,
    snapshot,
)

from clipfeat.featstore import CorruptStoreError, FeatureStore, StoreError, write_store
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.repair import repair
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.writing.lock import LockFile

RNG = np.random.default_rng(0)
RECORDS: dict[str, np.ndarray | None] = {
    f"r{k}": RNG.standard_normal((2, 3, 4)).astype(np.float16) for k in range(9)
}
RECORDS |= {f"s{k}": RNG.standard_normal((3, 2, 4)).astype(np.float16) for k in range(3)}
RECORDS |= {"gone": None}
POOLED = {image_id: RNG.standard_normal(5).astype(np.float16) for image_id in RECORDS}
NEW = {"new": np.ones((2, 3, 4), np.float16)}
GRID = "features.zarr/2x3/grid/c.1.0.0.0"  # holds r4 to r7
VECTORS = "features.zarr/2x3/pooled/c.1.0"


@pytest.fixture(params=["zstd", "none"])
def store(tmp_path, request):
    identity = make_identity(4, request.param, pooled_dim=5)
    return make_pooled_store(tmp_path / "s", identity, RECORDS, POOLED, 4)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def swap(path):
    other = path.with_name(path.name.replace("c.1", "c.0"))
    content = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(content)


def readable(path):
    store, read = FeatureStore.open(path), set()
    for image_id, grid in RECORDS.items():
        try:
            batch = store.read([image_id])
        except StoreError:
            continue
        assert grid is not None
        assert batch.features.tobytes() == grid.tobytes()
        assert batch.pooled is not None
        assert batch.pooled.tobytes() == POOLED[image_id].tobytes()
        read.add(image_id)
    return read


ALL = {image_id for image_id, grid in RECORDS.items() if grid is not None}


@pytest.mark.parametrize(
    ("damage", "names", "lost"),
    [
        (flip, [GRID], {"r4", "r5", "r6", "r7"}),
        (flip, [VECTORS], {"r4", "r5", "r6", "r7"}),
        (flip, [GRID, VECTORS], {"r4", "r5", "r6", "r7"}),
        (cut, [GRID], {"r4", "r5", "r6", "r7"}),
        (swap, [GRID], {f"r{k}" for k in range(8)}),
        (lambda path: path.unlink(), [GRID], {"r4", "r5", "r6", "r7"}),
        (lambda path: path.unlink(), ["features.zarr/3x2/grid/c.0.0.0.0"], {"s0", "s1", "s2"}),
    ],
)
def test_a_broken_shard_is_dropped_and_written_again_to_the_same_digest(store, damage, names, lost):
    whole, digest = snapshot(store), FeatureStore.open(store).digest
    for name in names:
        damage(store / name)
    done = repair(store)
    assert done.left == done.mended == ()
    assert {problem.path for problem in done.dropped} >= set(names)
    assert not any((store / name).exists() for name in names)
    assert not (store / "journal").exists()
    assert readable(store) == ALL - lost
    assert set(names) <= {problem.path for problem in verify(store)}

    again = extend_store(store, RECORDS, pooled=POOLED)
    assert again.digest == digest
    assert again.metadata.parents == ()
    assert verify(store, Depth.DEEP) == []
    assert readable(store) == ALL
    now = snapshot(store)
    for shard in again.shards:
        assert now[shard.path][2] == whole[shard.path][2]
        if shard.shape not in {name.split("/")[1] for name in names}:
            assert now[shard.path] == whole[shard.path]  # not written again


@pytest.mark.parametrize(
    "name",
    [
        "lookup.bin",
        "features.zarr/zarr.json",
        "features.zarr/2x3/zarr.json",
        "features.zarr/2x3/grid/zarr.json",
        "features.zarr/3x2/pooled/zarr.json",
    ],
)
@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()])
def test_files_that_follow_from_others_are_written_again_to_the_byte(store, name, damage):
    content, digest = (store / name).read_bytes(), FeatureStore.open(store).digest
    damage(store / name)
    done = repair(store)
    assert (done.mended, done.dropped, done.left) == ((name,), (), ())
    assert (store / name).read_bytes() == content
    assert verify(store, Depth.DEEP) == []
    assert FeatureStore.open(store).digest == digest


@pytest.mark.parametrize(
    ("name", "is_removed"),
    [
        (".store.json.0123456789abcdef.tmp", True),
        ("features.zarr/2x3/grid/.zarr.json.0123456789abcdef.tmp", True),
        ("features.zarr/2x3/grid/c.9.0.0.0", True),
        ("index.7.parquet", True),
        ("lookup.7.bin", True),
        ("thesis.tex", False),
        ("index of things.txt", False),
        ("notes/readme.md", False),
    ],
)
def test_what_a_writer_left_is_removed_and_what_a_person_put_there_is_not(store, name, is_removed):
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_text("...")
    done = repair(store)
    assert (store / name).exists() != is_removed
    assert [name] == ([*done.mended] if is_removed else [problem.path for problem in done.left])
    assert [problem.path for problem in verify(store)] == ([] if is_removed else [name])


def test_a_journal_that_a_killed_run_left_is_removed(store):
    (store / "journal").mkdir()
    (store / "journal/00000000.receipt").write_text("{}")
    (store / "journal/00000001.grid.0123456789abcdef.tmp").write_text("...")
    assert [problem.path for problem in verify(store)] == ["journal"]
    assert repair(store).left == ()
    assert verify(store) == []


@pytest.mark.parametrize("name", ["index.parquet", "shards.parquet", "store.json"])
@pytest.mark.parametrize("damage", [flip, cut])
def test_files_that_follow_from_no_other_are_left_and_named(store, name, damage):
    damage(store / name)
    before = {file: (store / file).read_bytes() for file in files_of(store)}
    try:
        done = repair(store)
    except StoreError as error:
        said = str(error)
    else:
        assert done.dropped == done.mended == ()
        said = " ".join(problem.text() for problem in done.left)
    assert name in said
    assert {file: (store / file).read_bytes() for file in files_of(store)} == before


def test_a_digest_that_is_not_that_of_the_tables_is_left_and_named(store):
    reseal(store, digest="0" * 64)
    assert [problem.path for problem in repair(store).left] == ["store.json"]


def test_damage_of_many_kinds_at_once(store):
    digest = FeatureStore.open(store).digest
    flip(store / GRID)
    flip(store / "lookup.bin")
    (store / "features.zarr/3x2/zarr.json").unlink()
    (store / "features.zarr/2x3/grid/.c.0.0123456789abcdef.tmp").touch()
    done = repair(store)
    assert set(done.mended) == {
        "lookup.bin",
        "features.zarr/3x2/zarr.json",
        "features.zarr/2x3/grid/.c.0.0123456789abcdef.tmp",
    }
    assert [problem.path for problem in done.dropped] == [GRID]
    assert set(done.dropped[0].ids) == {"r4", "r5", "r6", "r7"}
    assert extend_store(store, RECORDS, pooled=POOLED).digest == digest
    assert verify(store, Depth.DEEP) == []


def test_a_sound_store_is_left_as_it_is(store):
    before = snapshot(store)
    done = repair(store, Depth.DEEP)
    assert (done.mended, done.dropped, done.left) == ((), (), ())
    del before["."]  # the folder's own time: the lock was taken there
    now = snapshot(store)
    assert {name: now[name] for name in before} == before
    assert now.keys() - before.keys() == {"."}


def test_verify_and_readers_write_nothing_whatever_is_broken(store):
    flip(store / GRID)
    cut(store / VECTORS)
    (store / "features.zarr/2x3/zarr.json").unlink()
    (store / "journal").mkdir()
    before = snapshot(store)
    for depth in Depth:
        assert verify(store, depth) != []
    readable(store)
    assert snapshot(store) == before


def test_a_missing_store_or_one_being_written_is_not_repaired(store, tmp_path):
    with refuses("E-STORE-ABSENT", str(tmp_path / "none"), kind=StoreError):
        repair(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (store / "journal").mkdir()
    lock = LockFile(store / "journal/lock", "the store")
    lock.acquire()
    with refuses("E-LOCK-HELD", kind=StoreError):
        repair(store)
    lock.release()
    repair(store)
    assert verify(store) == []


def test_open_readers_still_read_while_a_store_is_repaired(store):
    reader = FeatureStore.open(store)
    flip(store / GRID)
    repair(store)
    with refuses("E-STORE-FILE", kind=CorruptStoreError):
        reader["r4"]
    extend_store(store, RECORDS, pooled=POOLED)
    assert reader["r4"].tobytes() == RECORDS["r4"].tobytes()  # pyright: ignore


def link(path, outside):
    path.rename(outside)
    path.symlink_to(outside)


def pipe(path, outside):
    path.unlink()
    os.mkfifo(path)


def folder(path, outside):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [GRID, "features.zarr/2x3/zarr.json", "index.parquet"])
@pytest.mark.parametrize(
    ("put", "problem"),
    [(link, "is a symbolic link"), (pipe, "is a pipe or a device"), (folder, "is a folder")],
)
@pytest.mark.parametrize("store", ["zstd"], indirect=True)
def test_a_link_a_pipe_and_a_folder_are_named_and_left(store, tmp_path, name, put, problem):
    content = (store / name).read_bytes()
    put(store / name, tmp_path / "outside")
    mode = (store / name).lstat().st_mode
    for depth in (Depth.QUICK, Depth.FULL):
        (found,) = (one for one in verify(store, depth) if one.path == name)
        assert (found.problem, "extract" in found.remedy) == (problem, False)
    done = repair(store)
    assert name in [left.path for left in done.left]
    assert not done.dropped
    with refuses("E-STORE-LINK" if put is link else "E-STORE-FILE", kind=StoreError):
        extend_store(store, RECORDS | NEW, pooled=POOLED | {"new": np.ones(5, np.float16)})
    assert (store / name).lstat().st_mode == mode
    if put is link:
        assert (tmp_path / "outside").read_bytes() == content


@pytest.mark.parametrize("store", ["zstd"], indirect=True)
def test_what_somebody_put_into_a_store_is_named_and_left(store):
    strange = [
        ".thesis.tmp",
        "features.zarr/2x3/grid/.DS_Store",
        "features.zarr/notes.txt",
        "journal/00000000.receipt.bak",
        "journal/deep/notes.txt",
        "journal/notes.txt",
    ]
    for name in strange:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("thesis")
    (store / "journal/00000001.receipt").write_text("{}")
    (store / "index.9.parquet").mkdir()
    for _ in range(2):
        assert sorted(left.path for left in repair(store).left) == strange
        assert sorted(found.path for found in verify(store)) == strange
    extend_store(store, RECORDS | NEW, pooled=POOLED | {"new": np.ones(5, np.float16)})
    assert all((store / name).read_text() == "thesis" for name in strange)
    assert (store / "index.9.parquet").is_dir()
    assert not (store / "journal/00000001.receipt").exists()


def test_a_path_may_be_a_text_and_a_depth_must_be_one_of_three(tmp_path):
    path = str(tmp_path / "s")
    write_store(path, make_identity(4), {"a": ONE_CELL}, lambda _: np.ones((1, 1, 4), np.float16))
    quick: Any = "quick"
    assert verify(path) == verify(path, quick) == []
    assert repair(path).left == ()
    for check in (verify, repair):
        with pytest.raises(ValueError, match="thorough"):
            check(path, cast(Any, "thorough"))
