"""clipfeat store info, ls and stats as they are typed, read by eye and by scripts."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from command_lines import run_here
from stores import make_identity, make_store

from clipfeat.cli.options import REFUSED
from clipfeat.cli.store import id_lines, json_array
from clipfeat.featstore import FeatureStore, GridShape, IndexRow, Status
from clipfeat.featstore.metadata import About
from clipfeat.featstore.report.summary import summarize_store, summary_text
from clipfeat.featstore.writing.writer import write_store

HOSTILE = "é\x1b[2J\t1\n"  # clears a screen, and breaks columns and lines


def clipfeat(*arguments, **environment):
    if not environment:
        return run_here("store", *arguments)
    return subprocess.run(
        [sys.executable, "-m", "clipfeat.cli", "store", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    return {f"i{k}": rng.standard_normal((2, 3, 16)).astype(np.float16) for k in range(9)}


@pytest.fixture
def store(tmp_path, records):
    return make_store(tmp_path / "s.clipfeat", {**records, "gone": None, HOSTILE: None})


def test_ls_gives_a_line_of_five_columns_an_id(store):
    done = clipfeat("ls", store)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[:2] == [
        ["gone", "missing", "-", "-", "no such file"],
        ["i0", "ok", "2x3", "-", "-"],
    ]
    assert lines[-1][0] == r"é\x1b[2J\t1\n"
    assert (len(lines), {len(line) for line in lines}) == (11, {5})


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [("missing", 2), ("ok", 9), ("ok,missing", 11), ("failed,too_large", 0)],
)
def test_ls_picks_statuses(store, statuses, expected):
    assert len(clipfeat("ls", store, "--status", statuses).stdout.splitlines()) == expected
    found = json.loads(clipfeat("ls", store, "--status", statuses, "--json").stdout)
    assert len(found) == expected
    assert {row["status"] for row in found} <= set(statuses.split(","))


def test_ls_refuses_a_status_that_there_is_not(store):
    done = clipfeat("ls", store, "--status", "missing,lost")
    assert done.returncode == 2
    assert "'lost' is not one of ok, missing," in done.stderr


def rows():
    yield IndexRow("a" * 30, "ok", "", "14x14", 0, 640, 480, "", "x/a.jpg", "")
    yield IndexRow("b", "failed", "no memory", "14x14", 1, 0, 0, "", "x/b.jpg", "")


def test_ls_on_a_terminal_is_aligned_under_a_heading():
    lines = list(id_lines(rows(), terminal=True))
    assert [line.split() for line in lines[1:]] == [
        ["a" * 30, "ok", "14x14", "640x480", "-"],
        ["b", "failed", "-", "-", "no", "memory"],
    ]
    assert lines[0].startswith("image id")
    assert lines[1].index("ok") == lines[2].index("failed")


def test_ls_json_says_null_for_what_is_not_there():
    assert json.loads("".join(json_array(rows()))) == [
        {"image_id": "a" * 30, "status": "ok", "reason": None, "shape": "14x14",
         "width": 640, "height": 480, "source": "x/a.jpg"},
        {"image_id": "b", "status": "failed", "reason": "no memory", "shape": None,
         "width": None, "height": None, "source": "x/b.jpg"},
    ]  # fmt: skip


@pytest.mark.parametrize("write", [json_array, lambda rows: id_lines(rows, terminal=True)])
def test_ls_holds_no_more_than_a_row(write):
    alive = 0

    def endless():
        nonlocal alive
        while True:
            alive += 1
            yield from rows()

    pieces = write(endless())
    for _ in range(100):
        next(pieces)
    assert alive <= 51


@pytest.mark.parametrize("command", [("ls",), ("ls", "--json"), ("stats",), ("info",)])
def test_a_reader_that_leaves_ends_it_quietly(store, command):
    with subprocess.Popen(
        [sys.executable, "-m", "clipfeat.cli", "store", *command, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["ls", "stats", "info"])
def test_an_alphabet_without_the_characters_is_no_error(store, command):
    done = clipfeat(command, store, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_info_gives_size_as_npy_and_a_line_to_cite(store, records, tmp_path):
    for image_id, grid in records.items():
        np.save(tmp_path / f"{image_id}.npy", grid.astype(np.float32))
    card = json.loads(clipfeat("info", store, "--json").stdout)
    assert card["float32_bytes"] == sum(f.stat().st_size for f in tmp_path.glob("*.npy"))
    assert card["bytes"] == sum(f.stat().st_size for f in store.rglob("c.*"))
    assert card["records_by_shape"] == {"2x3": 9}  # no image of the 1x1 planned has a record
    for text in ("s.clipfeat", "test", "pretrained: ", "recipe: test", "9 records",
                 f"clipfeat {card['clipfeat']}", f"sha256:{card['digest']}"):  # fmt: skip
        assert text in card["cite"]
    text = clipfeat("info", store).stdout
    assert "a store of grid features: 2 x 3 cells of 16 channels for 9 images" in text
    assert card["cite"] in text
    assert "gone: missing, no such file" in text
    assert "\x1b" not in text


def test_info_of_a_store_from_an_extraction_and_an_update(tmp_path):
    backbone = {"model": "RN50x4", "pretrained": "none", "seed": 0, "weights_sha256": "ab"}
    steps = [{"step": "stretch", "height": 448, "width": 448}, {"step": "rgb"}]
    recipe = {"name": "square:448", "steps": steps, "views": None}
    identity = make_identity(4, backbone=backbone, recipe=recipe)
    shapes = {
        "a": GridShape(1, 1),
        "b": GridShape(2, 1),
        **{f"no{k}": GridShape(1, 1) for k in range(7)},
    }
    grids = {i: np.ones((*shapes[i], 4), np.float16) for i in "ab"}
    path = tmp_path / "s.clipfeat"
    store = write_store(path, identity, shapes, grids.get)
    summary = summarize_store(store)
    metadata = msgspec.structs.replace(
        summary.metadata,
        parents=("12ab",),
        about=About(title="for \x1b[31mtests", licence="CC BY 4.0"),
        libraries={"torch": "2.6"},
    )
    text = summary_text(replace(summary, metadata=metadata))
    assert "2 grid shapes of 4 channels for 2 images" in text
    for line in (
        "model     RN50x4",
        "weights   pretrained none, seed 0, weights_sha256 ab",
        "recipe    square:448, steps stretch (height 448, width 448) > rgb",
        "grids     1 of 1x1, 1 of 2x1",
        f"          2 more: clipfeat store ls {path} --status missing",
        "with      torch 2.6",
        "parent    sha256:12ab",
        r"title     for \x1b[31mtests",
        "licence   CC BY 4.0",
    ):
        assert line in text.splitlines()
    assert "s.clipfeat (RN50x4, pretrained: none, recipe: square:448, 2 records, clipf" in text


def test_stats_prints_numbers_bars_and_warnings(store, records, tmp_path):
    cells = np.concatenate([grid.reshape(-1, 16) for grid in records.values()]).astype(float)
    found = json.loads(clipfeat("stats", store, "--json").stdout)
    assert (found["records"], found["cells"], found["pooled"]) == (9, 54, None)
    assert found["digest"] == FeatureStore.open(store).digest
    channels = found["grid"]["channels"]
    np.testing.assert_allclose(channels["mean"], cells.mean(0), rtol=1e-12)
    np.testing.assert_allclose(channels["std"], cells.std(0), rtol=1e-12)
    text = clipfeat("stats", store).stdout
    assert f"{store}: 9 records, 54 cells of 16 channels" in text
    assert "█" in text
    assert "No channel is dead or constant" in text
    for grid in records.values():
        grid[..., 2:15] = 0
        grid[..., 15] = 1
    text = clipfeat("stats", make_store(tmp_path / "flat.clipfeat", records)).stdout
    named = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."
    assert f"WARNING: 13 of 16 are dead channels (0 in all cells): {named}\n" in text
    assert "WARNING: 1 of 16 are constant channels (one other value in all cells): 15\n" in text


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_stats_of_a_store_with_a_flipped_bit_is_one_line(store, arguments):
    shard = store / "features.zarr/2x3/grid/c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    done = clipfeat("stats", store, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {shard}: record 0: ")
    assert f"clipfeat store verify {store}" in line


@pytest.mark.parametrize("command", ["ls", "stats", "info"])
def test_a_path_that_is_not_a_store_is_one_line(tmp_path, command):
    done = clipfeat(command, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path} is not a feature store")
    assert line.endswith("[E-STORE-ABSENT]")


def test_the_statuses_that_options_take_are_those_of_the_format():
    assert ("ok", *REFUSED) == tuple(Status)
