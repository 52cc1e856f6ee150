"""A store is written by one process at a time, and survives being killed."""

import errno
import heapq
import json
import multiprocessing as mp
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import interrupted_writer
import numpy as np
import pytest
import small_world
from interrupted_writer import RECORDS
from refused import refuses
from stores import files_of, make_identity, make_store, snapshot

from clipfeat.base.errors import StoreUsageError
from clipfeat.featstore import FeatureStore, GridShape, IndexRow, StoreError
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.tables import index_batch, index_lines, index_rows
from clipfeat.featstore.writing import journal, merge
from clipfeat.featstore.writing.commit import complete_commit
from clipfeat.featstore.writing.merge import merged
from clipfeat.featstore.writing.run import finished_store, update_layout
from clipfeat.featstore.writing.writer import StoreWriter


def run_writer(path, *arguments) -> Any:
    """Start a process that writes the store and tells each shard on stdout."""
    command = [sys.executable, interrupted_writer.__file__, path, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(child):
    child.kill()
    child.communicate()


def layout():
    return lay_out(Grids.of({image_id: GridShape(2, 3) for image_id in RECORDS}), 4)


def test_write_store_says_that_its_own_store_is_finished(tmp_path):
    path = make_store(tmp_path / "s", RECORDS)
    before = snapshot(path)
    with refuses("E-STORE-FINISHED", kind=StoreError):
        make_store(path, RECORDS)
    assert snapshot(path) == before


def test_a_file_that_may_not_grow_is_named_and_the_run_resumes_later(tmp_path):
    path, whole = tmp_path / "s", FeatureStore.open(make_store(tmp_path / "whole", RECORDS))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    named = set()
    for limit in (9, 200, 300, 700, 1500, 2400, 3000, 4000, 5000, 6000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            make_store(path, RECORDS)
        except OSError as error:
            named.add((error.errno, *Path(error.filename).relative_to(path).parts))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if (path / "store.json").exists():
            break
    expected = {("journal", "lock"), ("journal", "plan.json"), ("index.parquet",)}
    assert {(errno.EFBIG, *parts) for parts in expected} <= named
    assert {number for number, *_ in named} == {errno.EFBIG}
    finished = finished_store(path, make_identity(16)) or FeatureStore.open(
        make_store(path, RECORDS)
    )
    assert finished.digest == whole.digest


def test_a_rollback_removes_what_was_written_and_nothing_else(tmp_path):
    path = tmp_path / "s"
    _, layout = small_world.layout_of(path, small_world.FIRST)
    strange = ["features.zarr/1x2/notes.txt", "journal/notes.txt"]
    with StoreWriter(path, small_world.IDENTITY, layout) as writer:
        small_world.write_shard(path, writer.pending[0])
        for name in strange:
            (path / name).write_text("thesis")
        writer.rollback()
    assert files_of(path) == strange
    assert [(path / name).read_text() for name in strange] == ["thesis"] * 2


def test_columns_of_sorted_sources_are_merged_as_rows_would_be():
    rng = np.random.default_rng(0)
    ids = [f"{k:04}" + "é\U0001f600"[: k % 3] for k in range(3000)]
    rows = [IndexRow(i, "ok", "", "1x1", k, 0, 0, "", "", "") for k, i in enumerate(ids)]
    sources = [[] for _ in range(7)]
    for row, source in zip(rows, rng.integers(0, 6, len(rows)), strict=True):  # the last is empty
        sources[source].append(row)
    streams = [
        iter([index_batch(some) for some in np.split(np.array(source, object), [3, 3, 100])])
        for source in sources
    ]
    expected = list(heapq.merge(*sources))
    assert [IndexRow(*row) for row in index_rows(merged(streams))] == expected == rows
    assert list(merged([])) == []


def test_rows_wait_on_the_disk_in_sorted_runs(tmp_path):
    rows = [IndexRow(f"{k:03}", "ok", "", "1x1", k, 0, 0, "", "", "") for k in range(30)]
    batches = [rows[:10], [], rows[12:20], rows[11:9:-1], rows[20:22], rows[22:]]
    runs = merge.SortedRuns(tmp_path)
    for some in batches:
        runs.add(index_batch(some))
    assert list(tmp_path.iterdir()) == []
    streams = runs.streams()
    assert len(streams) == 2
    assert list(index_rows(merged(streams))) == rows
    runs.close()
    runs.close()


def test_a_row_costs_no_more_where_there_are_many_streams(monkeypatch):
    asked, ids = 0, [f"{k:05}" for k in range(2400)]
    read_id = merge._id

    def counting(batch, row):
        nonlocal asked
        asked += 1
        return read_id(batch, row)

    monkeypatch.setattr(merge, "_id", counting)
    rows = [IndexRow(i, "ok", "", "1x1", k, 0, 0, "", "", "") for k, i in enumerate(ids)]
    found = merged(iter([index_batch(rows[k::800])]) for k in range(800))
    assert [row.image_id for row in index_rows(found)] == ids
    assert asked < 100 * len(rows)  # to check each stream for every batch takes 800 for each row


def test_a_plan_that_is_too_large_to_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MAX_PLAN_BYTES", 100)
    again = (("2x3", 0),) * 20
    plan = journal.Plan({}, 4, layout="0" * 64, parent="1" * 64, again=again, shards=20, ids=80)
    books = journal.Journal(tmp_path / "s")
    books.create()
    for write in (books.write_plan, books.write_first_plan):
        with refuses("E-PLAN-SIZE", kind=StoreError):
            write(plan)
        assert books.plan() is None


def test_lines_of_the_index_are_those_of_json():
    texts = ["", "a", 'quote " and \\', "é", "\x7f\n\0", "\U0001f600", "[1,2]", "</a>"]
    rows = [
        IndexRow(text, "ok", why, "1x1", k, -k, 2**31 - 1, "", text, "")
        for k, text in enumerate(texts)
        for why in texts
    ]
    encode = json.JSONEncoder(separators=(",", ":")).encode
    for some in (rows, rows[:1], []):
        expected = "".join(f"{encode(list(row))}\n" for row in some)
        assert index_lines(index_batch(some)).decode() == expected


@pytest.mark.parametrize("shards_written", [1, 4, 9])
def test_a_killed_run_resumes_to_the_same_store(tmp_path, shards_written):
    child = run_writer(tmp_path / "s", 0.05)
    for _ in range(shards_written):
        child.stdout.readline()
    kill(child)
    with refuses("E-STORE-UNFINISHED", kind=StoreError):
        FeatureStore.open(tmp_path / "s")
    with StoreWriter(tmp_path / "s", make_identity(16), layout()) as writer:
        assert len(layout().shards) - len(writer.pending) >= shards_written
    resumed = FeatureStore.open(make_store(tmp_path / "s", RECORDS))
    whole = FeatureStore.open(make_store(tmp_path / "whole", RECORDS))
    assert resumed.digest == whole.digest
    assert not (tmp_path / "s" / "journal").exists()


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    child = run_writer(tmp_path / "s", 30)
    child.stdout.readline()
    with refuses("E-LOCK-HELD", f"is being written by process {child.pid} on ", kind=StoreError):
        make_store(tmp_path / "s", RECORDS)
    kill(child)
    make_store(tmp_path / "s", RECORDS)  # the lock ended with its holder


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b[1:]])
def test_a_damaged_shard_of_an_interrupted_run_is_written_again(tmp_path, damage):
    child = run_writer(tmp_path / "s", 30)
    child.stdout.readline()
    kill(child)
    shard = tmp_path / "s" / layout().shards[0].path("grid")
    shard.write_bytes(damage(shard.read_bytes()))
    make_store(tmp_path / "s", RECORDS)
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "s")["i000"], RECORDS["i000"])


@pytest.mark.parametrize("left", [["lock"], ["lock", ".plan.json.0123456789abcdef.tmp"], []])
def test_a_run_killed_before_its_plan_was_written_starts_again(tmp_path, left):
    (tmp_path / "s" / "journal").mkdir(parents=True)
    for name in left:
        (tmp_path / "s" / "journal" / name).touch()
    assert finished_store(tmp_path / "s", make_identity(16)) is None
    store = make_store(tmp_path / "s", RECORDS)
    assert verify(store) == []


@pytest.mark.parametrize("left", [["lock", "00000000.receipt"], ["00000001.receipt"]])
def test_a_run_killed_while_its_journal_was_removed_is_finished(tmp_path, left):
    store = make_store(tmp_path / "s", RECORDS)
    (store / "journal").mkdir()
    for name in left:
        (store / "journal" / name).write_text("{}")
    found = finished_store(store, make_identity(16))
    assert found is not None
    complete_commit(found)
    assert verify(store) == []


def test_shards_may_be_written_in_any_order_by_any_process(tmp_path):
    whole = small_world.write(tmp_path / "whole")
    path = tmp_path / "s"
    _, planned = small_world.layout_of(path, small_world.FIRST)
    with StoreWriter(path, small_world.IDENTITY, planned) as writer:
        small_world.write_shard(path, writer.pending[-1])  # and no more: the run is interrupted
    with StoreWriter(path, small_world.IDENTITY, planned) as writer:
        with ProcessPoolExecutor(2, mp.get_context("spawn")) as others:
            list(others.map(partial(small_world.write_shard, path), reversed(writer.pending)))
        assert writer.commit().digest == whole.digest


def test_temporary_files_of_a_worker_that_was_ended_go_with_the_run(tmp_path):
    path = tmp_path / "s"
    _, planned = small_world.layout_of(path, small_world.FIRST)
    with StoreWriter(path, small_world.IDENTITY, planned) as writer:
        begin = small_world.begin_shard_and_die
        worker = mp.get_context("spawn").Process(target=begin, args=(path, writer.pending[0]))
        worker.start()
        worker.join()
        assert len(list(path.glob("journal/*.tmp"))) == 2
    assert not list(path.rglob("*.tmp"))


def test_temporary_files_of_a_killed_run_do_not_stay(tmp_path):
    child = run_writer(tmp_path / "s", 30)
    child.stdout.readline()
    kill(child)
    for folder in ("", "features.zarr", "features.zarr/2x3/grid", "journal"):
        (tmp_path / "s" / folder / ".zarr.json.0123456789abcdef.tmp").touch()
    assert verify(make_store(tmp_path / "s", RECORDS)) == []


def test_an_unfinished_store_of_another_recipe_is_refused(tmp_path):
    with StoreWriter(tmp_path / "s", make_identity(16), layout()):
        pass
    with (
        refuses("E-PLAN-OTHER", "recipe.name is test in the store, other asked", kind=StoreError),
        StoreWriter(tmp_path / "s", make_identity(16, recipe={"name": "other"}), layout()),
    ):
        pass
    fewer = lay_out(Grids.of({"i000": GridShape(2, 3)}), 4)
    with (
        refuses("E-PLAN-OTHER", "for other images", kind=StoreError),
        StoreWriter(tmp_path / "s", make_identity(16), fewer),
    ):
        pass


def test_a_finished_store_is_recognised_or_the_difference_is_named(tmp_path):
    path = make_store(tmp_path / "s", RECORDS)
    store = finished_store(path, make_identity(16))
    assert store is not None
    assert len(store) == 60
    differs = "dtype is float16 in the store, float32 asked for"
    with refuses("E-STORE-OTHER", differs, kind=StoreUsageError):
        finished_store(path, make_identity(16, dtype="float32"))
    assert (StoreUsageError.exit_code, StoreError.exit_code) == (2, 1)
    shapes = dict.fromkeys(RECORDS, GridShape(2, 3))
    assert update_layout(store, Grids.of(shapes)).shards == ()
    del shapes["i000"]
    with refuses("E-STORE-IDS", "1 image", "'i000'", kind=StoreError):
        update_layout(store, Grids.of(shapes))


def test_a_folder_with_other_things_is_never_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with refuses("E-STORE-OCCUPIED", str(tmp_path), kind=StoreError):
        finished_store(tmp_path, make_identity(16))


def test_a_commit_that_is_too_early_is_refused(tmp_path):
    with (
        StoreWriter(tmp_path / "s", make_identity(16), layout()) as writer,
        refuses("E-STORE-MISSING-SHARDS", "15 shards", kind=StoreError),
    ):
        writer.commit()


def test_a_full_disk_leaves_a_store_that_can_be_resumed(tmp_path):
    child = run_writer(tmp_path / "s", 0, 400)
    _, errors = child.communicate()
    assert child.returncode == 1
    assert "File too large" in errors
    assert not list((tmp_path / "s").rglob("c.*"))
    assert not list((tmp_path / "s").rglob("*.tmp"))
    make_store(tmp_path / "s", RECORDS)
    assert len(FeatureStore.open(tmp_path / "s")) == 60
