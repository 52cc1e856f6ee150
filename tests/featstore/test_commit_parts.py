"""`store finish` commits the written shards, or names the missing ones, from the journal alone."""

import json

import numpy as np
import pytest
import small_world
from hostile import change_receipt
from msgspec.structs import replace
from refused import refuses
from small_world import ALL, FIRST, IDENTITY, MISSING, layout_of, write, write_shard
from stores import extend_store, files_of, make_store, snapshot

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Part
from clipfeat.featstore.writing.parts import MissingShards, commit_parts
from clipfeat.featstore.writing.writer import StoreWriter

NOT_OF_PLAN = "E-PLAN-RECEIPTS"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def write_most(path, ids=FIRST, but=(), libraries=small_world.LIBRARIES):
    """Write all shards of a run, or all but some, and end before it is finished."""
    parent, layout = layout_of(path, ids)
    with StoreWriter(path, IDENTITY, layout, parent=parent) as writer:
        for shard in writer.pending:
            if shard.number not in but:
                write_shard(path, shard, libraries)
    return layout


def finished(path):
    store = commit_parts(path)
    assert isinstance(store, FeatureStore)
    assert verify(path, Depth.DEEP) == []
    return store


def missing(path):
    found = commit_parts(path)
    assert isinstance(found, MissingShards)
    assert not (path / "store.json").exists()
    return found


def refusal(path):
    """Return why the store cannot be committed: which shards are missing, or an error's code."""
    try:
        return missing(path).text()
    except StoreError as error:
        assert not (path / "store.json").exists()
        return error.code


class TestFinished:
    def test_a_run_that_was_killed_before_its_end(self, tmp_path, path):
        write_most(path)
        whole = write(tmp_path / "whole")
        store = finished(path)
        assert store.digest == whole.digest
        same = replace(whole.metadata, created="", tables={})
        assert replace(store.metadata, created="", tables={}) == same
        assert files_of(path) == files_of(tmp_path / "whole")

    def test_an_update(self, tmp_path, path):
        for each in (path, tmp_path / "whole"):
            write(each)
            small_world.drop_shard(each)
        write_most(path, ALL)
        whole = write(tmp_path / "whole", ALL)
        store = finished(path)
        assert store.digest == whole.digest
        for key in ("parents", "generation", "counts", "grid_shapes", "identity"):
            assert getattr(store.metadata, key) == getattr(whole.metadata, key)

    def test_a_store_that_is_finished_is_left_as_it_is(self, path):
        digest = write(path).digest
        before = snapshot(path)
        assert finished(path).digest == digest
        assert snapshot(path) == before

    def test_what_a_killed_run_left_beside_it_is_removed(self, path):
        digest = write(path).digest
        (path / "journal").mkdir()
        (path / "journal/part-1-of-2.lock").touch()
        (path / "index.7.parquet").touch()
        assert finished(path).digest == digest


class TestMissing:
    def test_shards_without_a_receipt(self, path):
        layout = write_most(path, but=(1, 2))
        found = missing(path)
        ids = len(layout.shards[1].ids) + len(layout.shards[2].ids)
        text = f"{path} lacks {ids} ids in 2 of 3 shards (no receipt: 1-2); run the same"
        assert found.text() == f"{text} clipfeat extract command again"
        assert found.to_json() == {
            "store": str(path),
            "finished": False,
            "shards": 3,
            "missing": {"shards": [[1, 2]], "ids": ids, "parts": []},
        }
        write_most(path)
        assert finished(path).digest == write(path).digest

    def test_the_parts_that_have_them_are_named(self, path):
        _, layout = layout_of(path, ALL)
        for number in (1, 3):
            with StoreWriter(path, IDENTITY, layout, part=Part(number, 3)) as writer:
                for shard in writer.pending:
                    write_shard(path, shard)
        found = missing(path)
        assert found.parts == (Part(2, 3),)
        command = "run the same clipfeat extract command again with --shard-range 2/3"
        assert found.text().endswith(command)

    def test_many_gaps_are_not_all_named(self, path):
        ranges = tuple(range(k, k + 1) for k in range(0, 40, 2))
        parts = tuple(Part(k, 20) for k in range(1, 21))
        text = MissingShards(path, ranges, planned=40, ids=20, changed=True, parts=parts).text()
        assert "(changed since they were written: 0, 2, 4, 6, 8, 10, 12, 14, 12 more)" in text
        assert text.endswith("1/20, 2/20, 3/20, 4/20, 5/20, 6/20, 7/20, 8/20, 12 more")

    @pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b"x"), lambda f: f.unlink()])
    def test_a_shard_that_changed(self, path, damage):
        layout = write_most(path)
        damage(path / layout.shards[2].path("pooled"))
        found = missing(path)
        assert found.shards == (range(2, 3),)
        assert "lacks 1 id in 1 of 3 shards (changed since they were written: 2)" in found.text()
        write_most(path)
        assert finished(path).digest == write(path).digest


class TestRefused:
    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
    def test_a_folder_that_is_not_a_store(self, path, make):
        make(path)
        with refuses("E-STORE-ABSENT", str(path), kind=UsageError):
            commit_parts(path)
        assert not list(path.glob("*"))

    def test_nothing_planned(self, path):
        (path / "journal").mkdir(parents=True)
        with refuses("E-PLAN-ABSENT", str(path), kind=StoreError):
            commit_parts(path)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"layout": "0" * 64}, NOT_OF_PLAN),
            ({"ids": 9}, NOT_OF_PLAN),
            ({"again": [["1x2", 0]]}, NOT_OF_PLAN),
            ({"shard_records": 4}, "no receipt: 1"),
        ],
    )
    def test_a_plan_that_is_not_that_of_the_receipts(self, path, change, why):
        write_most(path)
        plan = path / "journal/plan.json"
        plan.write_text(json.dumps({**json.loads(plan.read_bytes()), **change}))
        assert why in refusal(path)

    @pytest.mark.parametrize(
        "change",
        [{"shards": 10**30}, {"shards": -1}, {"ids": "4"}, {"shard_records": 0}, {"layout": 1}],
    )
    def test_a_plan_that_is_invalid(self, path, change):
        write_most(path)
        plan = path / "journal/plan.json"
        plan.write_text(json.dumps({**json.loads(plan.read_bytes()), **change}))
        with refuses("E-PLAN-INVALID", "plan.json", *change, kind=StoreError):
            commit_parts(path)

    def test_as_many_shards_as_nobody_has(self, path):
        write_most(path)
        (path / "journal/part-1-of-100000.lock").touch()
        plan = path / "journal/plan.json"
        many = {**json.loads(plan.read_bytes()), "shards": 10**12}
        plan.write_text(json.dumps(many))
        found = missing(path)
        assert found.shards == (range(3, 10**12),)
        assert len(json.dumps(found.to_json())) < 2 << 20
        assert f"{10**12 - 3} of {10**12} shards" in found.text()

    def test_the_plan_of_another_store(self, tmp_path, path):
        write_most(path)
        write_most(tmp_path / "other", ALL)
        (tmp_path / "other/journal/plan.json").rename(path / "journal/plan.json")
        with refuses("E-PLAN-RECEIPTS", kind=StoreError):
            commit_parts(path)
        assert not (path / "store.json").exists()

    @pytest.mark.parametrize(
        ("table", "column", "value", "why"),
        [
            ("files", 0, "../../../etc/passwd", "no receipt: 0"),
            ("files", 2, "0" * 64, "changed since they were written: 0"),
            ("files", 3, "0x0", "no receipt: 0"),
            ("files", 4, -2, "no receipt: 0"),
            ("files", 4, 1, "no receipt: 0"),
            ("files", 5, 10**9, "no receipt: 0"),
            ("records", 0, "a00", NOT_OF_PLAN),
            ("records", 4, 1, "no receipt: 0"),
            ("records", 4, 10**15, "no receipt: 0"),
            ("records", 9, "", "no receipt: 0"),
        ],
    )
    def test_a_receipt_that_was_forged(self, path, table, column, value, why):
        write_most(path)

        def change(receipt):
            receipt[table][0][column] = value

        change_receipt(path / "journal/00000000.receipt", change)
        assert why in refusal(path)
        write_most(path)  # which knows what it planned
        assert finished(path).digest == write(path).digest

    def test_an_update_of_a_store_that_is_gone(self, path):
        write(path)
        write_most(path, ALL)
        (path / "store.json").unlink()
        with refuses("E-PLAN-PARENT", "store.json", kind=StoreError):
            commit_parts(path)

    def test_no_record_at_all_undoes_the_run(self, path):
        write_most(path, [MISSING])
        reason = "1 missing (no such file; such as a1)"
        with refuses("E-IMAGES-UNUSABLE", "no store was written", reason, kind=StoreError):
            commit_parts(path)
        assert not path.exists()

    def test_an_update_that_only_produced_no_record_is_undone(self, tmp_path):
        records = {"a": np.ones((1, 1, 8), np.float16), "gone": None}
        store = FeatureStore.open(make_store(tmp_path / "s", records))
        before = snapshot(tmp_path / "s")

        def stop(self):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StoreWriter, "commit", stop)
            with pytest.raises(KeyboardInterrupt):
                extend_store(store.path, records, retry=["missing"])
        names = f"{store.path} is as it was", "1 missing"
        with refuses("E-IMAGES-UNUSABLE", *names, kind=StoreError):
            commit_parts(store.path)
        after = snapshot(tmp_path / "s")
        assert {k: v[2] for k, v in after.items()} == {k: v[2] for k, v in before.items()}


class TestLibraries:
    def test_those_of_all_who_wrote_are_named(self, path):
        write_most(path, but=(1,), libraries={"torch": "2.7", "pillow": "11"})
        write_most(path, libraries={"torch": "2.6", "pillow": "11"})
        assert finished(path).metadata.libraries == {"pillow": "11", "torch": "2.6, 2.7"}
        write_most(path, ALL, libraries={"torch": "2.10", "numpy": "2"})
        assert finished(path).metadata.libraries == {
            "numpy": "2",
            "pillow": "11",
            "torch": "2.10, 2.6, 2.7",
        }

    @pytest.mark.parametrize(
        "libraries",
        [
            None,
            [],
            {"torch": 2},
            {"torch": ""},
            {"torch": "x" * 101},
            {"\x1b[31m": "1"},
            {"torch": "\ud800"},
            {f"l{k}": "1" for k in range(33)},
        ],
    )
    def test_a_receipt_with_others_counts_as_not_there(self, path, libraries):
        write_most(path)
        file = path / "journal/00000001.receipt"
        change_receipt(file, lambda receipt: receipt.update(libraries=libraries))
        assert missing(path).shards == (range(1, 2),)
        if isinstance(libraries, dict):  # and nobody writes one
            with pytest.raises(ValueError, match="librar"):
                write_shard(path, layout_of(path, FIRST)[1].shards[0], libraries)
