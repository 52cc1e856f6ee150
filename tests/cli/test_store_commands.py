"""clipfeat manifest, store and extract as they are typed: output, one-line errors, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from command_lines import run_here
from pictures import write_bad_files, write_photographs
from small_world import FIRST, IDENTITY, layout_of, write, write_shard
from stores import make_store, snapshot

from clipfeat.cli import main
from clipfeat.featstore.layout import Part
from clipfeat.featstore.writing.writer import StoreWriter

# What a person may not do is tried as one, even where the tests are run by root.
UNPRIVILEGED = """
from command_lines import drop_capabilities
from clipfeat.cli.main import main
drop_capabilities()
main()
"""


def clipfeat(*arguments, cwd=None):
    return run_here(*arguments, cwd=cwd)


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    records = {f"i{k}": rng.standard_normal((2, 3, 16)).astype(np.float16) for k in range(9)}
    return make_store(tmp_path / "s.clipfeat", {**records, "gone": None})


def assert_one_line_error(done, code, *texts):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    for text in texts:
        assert text in line


def commands(group, *names):
    """Yield the words of each command, those of groups included."""
    for name, command in group.commands.items():
        yield (*names, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


def test_help_of_every_command_has_a_line_to_paste():
    words = list(commands(main.clipfeat))
    assert len(words) > 20
    for command in words:
        done = clipfeat(*command, "--help")
        assert done.returncode == 0, done.stderr
        assert f"$ clipfeat {' '.join(command)}" in done.stdout, command


def test_info_digest_and_verify(store):
    card = json.loads(clipfeat("store", "info", store, "--json").stdout)
    assert (card["records"], card["counts"]["missing"]) == (9, 1)
    assert card["refused"] == [{"image_id": "gone", "status": "missing", "reason": "no such file"}]
    text = clipfeat("store", "info", store).stdout
    assert "9 ok, 1 missing" in text
    assert card["digest"] in text
    assert clipfeat("store", "digest", store).stdout.strip() == card["digest"]
    done = clipfeat("store", "verify", store)
    assert (done.returncode, done.stdout) == (0, f"{store}: every file is complete and unchanged\n")


def test_verify_exits_with_1_and_names_the_file(store):
    shard = store / "features.zarr/2x3/grid/c.0.0.0.0"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    done = clipfeat("store", "verify", store)
    assert done.returncode == 1
    assert "features.zarr/2x3/grid/c.0.0.0.0: sha256 is" in done.stderr
    report = json.loads(clipfeat("store", "verify", store, "--json").stdout)
    assert report["ok"] is False
    (problem,) = report["problems"]
    assert problem["shard"] == problem["path"] == "features.zarr/2x3/grid/c.0.0.0.0"
    assert problem["ids"] == ["i0", "i1", "i2", "i3"]
    assert "clipfeat store repair" in problem["remedy"]


def test_manifest_says_what_it_found(tmp_path):
    write_photographs(tmp_path / "images", 2)
    write_bad_files(tmp_path / "images")
    done = clipfeat("manifest", tmp_path / "images", "-o", tmp_path / "m.parquet")
    assert done.stdout == f"{tmp_path}/m.parquet: 7 images, 2 without a readable header\n"


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (("store", "info", "none.clipfeat"), 1, ("does not exist",)),
        (("manifest", "none", "-o", "m.parquet"), 2, ("none is neither a folder nor a file",)),
        (("extract", "--model", "RN50"), 2, ("images is not a folder",)),
        (("extract", "--model", "RN50", "--images", "empty"), 2, ("[E-MANIFEST-EMPTY]",)),
        (("extract", "--model", "RN50", "--dtype", "int8"), 2, ("'int8' is not one of",)),
        (("extract", "--model", "RN50", "--images", "ok", "--recipe", "x"), 2, ("no such recipe",)),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, code, texts):
    (tmp_path / "empty").mkdir()
    write_photographs(tmp_path / "ok", 1)
    done = clipfeat(*arguments, cwd=tmp_path)
    assert_one_line_error(done, code, *texts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "ok"]


def test_extract_as_it_stands_takes_images_and_names_the_store(tmp_path):
    write_photographs(tmp_path / "images", 2)
    write_bad_files(tmp_path / "images")
    command = ("extract", "--model", "RN50", "--pretrained", "none", "--recipe", "square:32")
    done = clipfeat(*command, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Random weights (seed 0)" in done.stderr
    assert "5 images gave no record" in done.stdout
    assert (tmp_path / "images-RN50-square32.clipfeat" / "store.json").exists()
    strict = clipfeat(*command, "--device", "cpu", "--strict", "--json", cwd=tmp_path)
    assert strict.returncode == 1
    assert json.loads(strict.stdout)["counts"]["ok"] == 2


def test_repair_drops_the_shard_and_says_what_to_type(store):
    shard = store / "features.zarr/2x3/grid/c.0.0.0.0"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    (store / "features.zarr/zarr.json").unlink()
    done = clipfeat("store", "repair", store)
    assert (done.returncode, done.stderr) == (0, "")
    dropped, mended, summary = done.stdout.splitlines()
    assert dropped.startswith("dropped features.zarr/2x3/grid/c.0.0.0.0: sha256 is ")
    assert mended == "mended features.zarr/zarr.json"
    expected = "4 records to extract, 0 problems left; run the clipfeat extract command again"
    assert summary == f"{store}: {expected} to write them"
    assert not shard.exists()
    again = json.loads(clipfeat("store", "repair", store, "--json").stdout)
    assert [problem["shard"] for problem in again["dropped"]] == [
        "features.zarr/2x3/grid/c.0.0.0.0"
    ]
    (store / "index.parquet").write_bytes(b"gone")
    left = clipfeat("store", "repair", store)
    assert left.returncode == 1
    assert "index.parquet: sha256 is not the one in store.json; copy this file again" in left.stderr


def test_finish_says_what_is_lacking_and_then_finishes(tmp_path):
    path = tmp_path / "s"
    _, layout = layout_of(path, FIRST)
    for number in (1, 3):
        with StoreWriter(path, IDENTITY, layout, part=Part(number, 3)) as writer:
            for shard in writer.pending:
                write_shard(path, shard)
    done = clipfeat("store", "finish", path)
    again = "run the same clipfeat extract command again with --shard-range 2/3"
    what = f"{path} lacks 1 id in 1 of 3 shards (no receipt: 1); {again}"
    assert_one_line_error(done, 1, what)
    done = clipfeat("store", "finish", path, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    missing = {"shards": [[1, 1]], "ids": 1, "parts": ["2/3"]}
    expected = {"store": str(path), "finished": False, "shards": 3, "missing": missing}
    assert json.loads(done.stdout) == expected
    with StoreWriter(path, IDENTITY, layout, part=Part(2, 3)) as writer:
        write_shard(path, writer.pending[0])
    digest = write(tmp_path / "whole").digest
    for _ in range(2):
        done = clipfeat("store", "finish", path)
        assert done.stdout == f"{path} is finished: 3 records, digest {digest[:16]}...\n"
        assert (done.returncode, done.stderr) == (0, "")
    done = json.loads(clipfeat("store", "finish", path, "--json").stdout)
    assert (done["finished"], done["digest"], done["counts"]["ok"]) == (True, digest, 3)


def test_finish_of_what_is_no_store(tmp_path):
    done = clipfeat("store", "finish", tmp_path)
    assert_one_line_error(done, 2, str(tmp_path), "[E-STORE-ABSENT]")


@pytest.mark.parametrize("begun", [True, False])
def test_finish_where_nothing_may_be_written(tmp_path, begun):
    path = tmp_path / "s"
    _, layout = layout_of(path, FIRST)
    with StoreWriter(path, IDENTITY, layout, part=Part(1, 1)) as writer:
        for shard in writer.pending:
            write_shard(path, shard)
    lock = path / "journal/lock"
    if not begun:
        lock.unlink()
    for place in (path, path / "journal", *([lock] if begun else [])):
        place.chmod(0o444 if place == lock else 0o555)
    before = snapshot(path)
    command = [sys.executable, "-c", UNPRIVILEGED, "store", "finish", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert_one_line_error(done, 1, f"Permission denied: {lock}")
    assert snapshot(path) == before
