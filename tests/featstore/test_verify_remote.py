"""`clipfeat store verify URL` finds what is wrong with the files that a server has."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import FAULTS, isolate, serving
from hostile import forge_column, reseal
from refused import refuses
from stores import make_store

from clipfeat.cli.main import clipfeat
from clipfeat.featstore import Depth, verify

RNG = np.random.default_rng(0)
RECORDS = {f"image{k}": RNG.standard_normal((3, 4, 64)).astype(np.float16) for k in range(6)}
SHARD = "features.zarr/3x4/grid/c.1.0.0.0"


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A server with a new store `s`, and the store's folder."""
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    folder = make_store(tmp_path / "served" / "s", RECORDS)
    with serving(folder.parent) as server:
        yield server, folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("depth", Depth)
def test_an_intact_store_has_no_problem(served, depth):
    server, _ = served
    assert verify(f"{server.url}/s", depth) == []


@pytest.mark.parametrize("depth", Depth)
@pytest.mark.parametrize(
    "name", ["index.parquet", "lookup.bin", SHARD, "features.zarr/3x4/grid/zarr.json"]
)
def test_a_missing_file_is_found(served, name, depth):
    server, folder = served
    (folder / name).unlink()
    problems = verify(f"{server.url}/s", depth)
    assert [problem.path for problem in problems] == [name]
    assert "does not exist" in problems[0].problem
    assert "upload" in problems[0].remedy


@pytest.mark.parametrize("name", ["index.parquet", "lookup.bin", SHARD, "features.zarr/zarr.json"])
def test_a_flipped_bit_is_found(served, name):
    server, folder = served
    assert verify(f"{server.url}/s") == []  # all of it is now in the cache
    flip(folder / name)
    problems = verify(f"{server.url}/s")
    assert [problem.path for problem in problems] == [name]
    if name == SHARD:
        assert problems[0].ids == ("image4", "image5")


def test_a_shorter_shard_is_found_by_its_size(served):
    server, folder = served
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])
    for depth in (Depth.QUICK, Depth.FULL):
        assert [problem.path for problem in verify(f"{server.url}/s", depth)] == [SHARD]


def test_a_damaged_packing_list_is_the_only_problem(served):
    server, folder = served
    flip(folder / "shards.parquet")
    assert [problem.path for problem in verify(f"{server.url}/s")] == ["shards.parquet"]


def test_a_record_that_is_not_the_indexs_is_found_by_deep(served):
    server, folder = served
    forge_column(folder, "index", "record_sha256", ["00" * 16] * 6)
    assert {problem.path for problem in verify(f"{server.url}/s", Depth.DEEP)} == {
        "store.json", "features.zarr/3x4/grid/c.0.0.0.0", SHARD,
    }  # fmt: skip


def test_documents_are_compared(served):
    server, folder = served
    (folder / "README.md").write_text("hello")
    reseal(folder, documents={"README.md": "0" * 64})
    assert [problem.path for problem in verify(f"{server.url}/s")] == ["README.md"]


def test_a_server_that_fails_is_an_error_and_no_problem_of_the_store(served):
    server, _ = served
    server.fault, server.fault_on = FAULTS["403"][0], SHARD
    with refuses("E-REMOTE-DENIED", SHARD):
        verify(f"{server.url}/s")


def test_the_command_line_reads_urls(served, tmp_path):
    url = f"{served[0].url}/s"

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(clipfeat, ["store", *arguments, "--cache", str(tmp_path / "c")])
        assert done.exit_code == 0, done.output
        return done.output

    assert f"{url}: every file is complete" in run("verify", url)
    info = json.loads(run("info", url, "--json"))
    assert info["path"] == url
    assert info["cite"].startswith("s (")
    assert run("digest", url).strip() == info["digest"]
    assert run("ls", url).count("\n") == 6
    assert json.loads(run("stats", url, "--json"))["path"] == url
    assert any((tmp_path / "c").iterdir())
