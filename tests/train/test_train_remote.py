"""Training on a store behind a URL, and training again what another lab has trained."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from children import Child, command_line, wait_for_update
from command_lines import run_here
from fault_server import FaultServer, always, isolate, serving
from logged import logged
from refused import refuses
from stores import make_store
from vqa_world import FAST, grid, make_world

from clipfeat.base.errors import StoreError, UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.featstore.report import spectrum
from clipfeat.train import fit
from clipfeat.train.run import SETTINGS
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask
from clipfeat.train.windows import fetch_ahead

WINDOWS = ("epochs=4", "checkpoint_every=1", "window_shards=2")
FILES = ("last.safetensors", "best.safetensors", "predictions.json", "scores.json")
SHARDS = 6  # of the training images, in three grid shapes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(world: tuple[Path, Path]) -> Iterator[FaultServer]:
    with serving(world[0].parent) as faults:
        yield faults


@pytest.fixture
def url(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the world's store; nothing of it is in the cache."""
    server.reset()
    isolate(monkeypatch, tmp_path / "home", [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    return f"{server.url}/world.clipfeat"


@pytest.fixture
def few_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics read a single record, so that the windows are not in the cache by then."""
    for name, number in (("MIN_RECORDS", 1), ("MIN_CELLS", 2), ("CELLS_PER_CHANNEL", 0)):
        monkeypatch.setattr(spectrum, name, number)


def train(store: str | Path, data: Path, run: Path, *changes: str) -> dict[str, Any]:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *changes])
    return fit(VqaTask(settings, store=store, data=data, device="cpu"), run)[0]


@pytest.fixture(scope="module")
def local(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the folder, in the order of windows, that nobody interrupted."""
    run = tmp_path_factory.mktemp("runs") / "local"
    train(*world, run, *WINDOWS)
    return run


def assert_same_bits(run: Path, whole: Path) -> None:
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    settings = [json.loads((each / SETTINGS).read_text()) for each in (run, whole)]
    for key in ("settings", "store_digest", "data_files"):
        assert settings[0][key] == settings[1][key]


def shard_requests(server: FaultServer) -> dict[str, int]:
    return {path: n for path, n in server.paths().items() if "/grid/" in path}


def test_a_run_on_a_url_is_killed_and_ends_as_on_the_folder(
    world: tuple[Path, Path], local: Path, url: str, tmp_path: Path
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    words = command_line(world, run, *WINDOWS)
    words[words.index(str(world[0]))] = url
    child = Child(*words[3:], "--cache", str(cache))
    wait_for_update(run, 3, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (run / "result.json").exists()
    train(url, world[1], run, *WINDOWS)
    assert_same_bits(run, local)


@pytest.mark.usefixtures("few_statistics")
def test_a_run_goes_on_in_the_same_order_wherever_its_store_lies(
    world: tuple[Path, Path], server: FaultServer, url: str, tmp_path: Path
) -> None:
    """The server refuses a shard of the last window; the run continues on the folder."""
    limits = ("epochs=2", "checkpoint_every=1", "batch_size=4")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(*world, whole, *limits, "window_shards=2")

    def refuse_fifth(target: str, _: dict[str, str]) -> Any:
        if len(shard_requests(server)) > 4:
            server.fault, server.fault_on = always(lambda answer: answer.is_(403)), target
        return None

    server.route = refuse_fifth
    with refuses("E-REMOTE-DENIED", kind=StoreError):
        train(url, world[1], run, *limits, "window_shards=2")
    assert (run / "last.safetensors").exists()
    train(*world, run, *limits)  # its window is that of the run
    assert_same_bits(run, whole)
    with refuses("E-RUN-DIFFERS", "window_shards 2, not 3", kind=UsageError):
        train(*world, run, *limits, "window_shards=3")


@pytest.mark.usefixtures("few_statistics")
def test_requests_are_those_of_shards_not_of_records(
    world: tuple[Path, Path], server: FaultServer, url: str, tmp_path: Path
) -> None:
    with logged() as lines:
        train(url, world[1], tmp_path / "run", "epochs=2", "eval_split=")
    shards = len(shard_requests(server))
    assert shards == SHARDS
    # The index of a shard and its records, once for both epochs; and the record of the statistics.
    assert sum(shard_requests(server).values()) <= 2 * shards + 1
    window = json.loads((tmp_path / "run" / SETTINGS).read_text())["settings"]["window_shards"]
    assert window == SHARDS  # all of them fit the cache
    (said,) = (line for line in lines if "window" in line)
    assert said.startswith(f"{url}: ")
    assert f"windows of {SHARDS} of {SHARDS} shards" in said
    assert "5,000" in said


def test_a_window_that_the_cache_cannot_hold_is_refused(
    world: tuple[Path, Path], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFEAT_CACHE_GB", "0")
    for window in (2, 900, -1):
        with refuses("E-RUN-WINDOW", "CLIPFEAT_CACHE_GB", kind=UsageError):
            train(url, world[1], tmp_path / "run", f"window_shards={window}")
    assert not (tmp_path / "run").exists()


def test_fetched_records_are_read_without_a_request(server: FaultServer, url: str) -> None:
    store = FeatureStore.open(url)
    ids = list(store)
    store.fetch(ids)
    numbers = store.shard_numbers(ids)
    assert len(set(numbers.tolist())) == len(shard_requests(server))
    server.requests.clear()
    batch = store.read(ids)
    assert not server.requests
    first = grid(1).reshape(-1, grid(1).shape[-1])
    np.testing.assert_array_equal(
        batch.features[ids.index(f"COCO_train2014_{1:012}")][: len(first)], first
    )


def command(*words: object) -> tuple[int, str, str]:
    done = run_here(*words)
    return done.returncode, done.stdout, done.stderr


def test_pull_first_trains_on_the_copy(world: tuple[Path, Path], url: str, tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy.clipfeat"
    words = command_line(world, run, "epochs=1")[3:]
    words[words.index(str(world[0]))] = url
    assert command(*words, "--pull-first", copy)[0] == 0
    settings = json.loads((run / SETTINGS).read_text())
    assert settings["store"] == str(copy)
    assert settings["store_digest"] == FeatureStore.open(world[0]).digest
    assert settings["settings"]["window_shards"] == 0
    code, _, err = command(*command_line(world, run, "epochs=1")[3:], "--pull-first", copy)
    assert (code, "E-OPTION-EXCLUDES" in err) == (2, True)


def test_another_lab_trains_again_and_finds_the_same_scores(
    world: tuple[Path, Path], local: Path, url: str, tmp_path: Path
) -> None:
    again = ("rerun", local, "--store", url, "--data", world[1], "--out", tmp_path / "again")
    code, out, _ = command(*again, "--device", "cpu", "--json", "--set", "log_every=2")
    found = json.loads(out)
    assert (code, found["reproduced"]) == (0, True)
    theirs, ours = found["runs"]
    assert ours["score"] == theirs["score"]
    assert ours["interval"] == [0, 0]
    assert (tmp_path / "again" / "scores.json").read_bytes() == (local / "scores.json").read_bytes()

    claimed = tmp_path / "claimed"  # with scores that nobody can reach
    claimed.mkdir()
    scores = json.loads((local / "scores.json").read_text())
    (claimed / SETTINGS).write_bytes((local / SETTINGS).read_bytes())
    (claimed / "scores.json").write_text(
        json.dumps(scores | {"scores": [200] * len(scores["ids"])})
    )
    code, out, _ = command("rerun", claimed, *again[2:], "--device", "cpu")
    assert (code, out.splitlines()[-1][:9]) == (1, "DIFFERENT")


def test_a_run_is_trained_again_on_its_store_and_its_data_alone(
    world: tuple[Path, Path], local: Path, tmp_path: Path
) -> None:
    def refused(store: Path, data: Path, *more: object) -> str:
        out = tmp_path / "out"
        code, _, err = command(
            "rerun", local, "--store", store, "--data", data, "--out", out, *more
        )
        assert (code, out.exists()) == (2, False)
        return err

    other = make_store(tmp_path / "other.clipfeat", {"a": np.ones((2, 2, 8), np.float16)})
    err = refused(other, world[1])
    assert "E-RERUN-DIGEST" in err
    assert all(FeatureStore.open(each).digest in err for each in (other, world[0]))
    data = tmp_path / "data"
    data.mkdir()
    for file in world[1].iterdir():
        (data / file.name).write_bytes(file.read_bytes() + b" ")
    assert "E-RERUN-DATA" in refused(world[0], data)
    assert "E-RERUN-SETTING" in refused(*world, "--set", "lr=1")


def groups_of(count: int) -> list[list[np.ndarray]]:
    return [[np.array([2 * n]), np.array([2 * n + 1])] for n in range(count)]


def test_a_group_is_fetched_before_its_first_batch_and_one_ahead() -> None:
    got: list[int] = []
    batches = fetch_ahead(groups_of(9), lambda group: [int(b[0]) for b in group], got.append)
    for n, batch in enumerate(batches):
        assert batch.tolist() == [n]
        assert n in got
        assert len(got) <= 2 * (n // 2 + 2)
    assert got == list(range(18))


def test_fetching_stops_after_the_current_part(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[int] = []
    going, closing = threading.Event(), threading.Event()

    class Stopped(threading.Event):
        def set(self) -> None:
            super().set()
            closing.set()

    monkeypatch.setattr("clipfeat.train.windows.threading", SimpleNamespace(Event=Stopped))

    def fetch(part: int) -> None:
        got.append(part)
        if part >= 100:
            going.set()
            assert closing.wait(10)

    batches = fetch_ahead(
        groups_of(2), lambda group: [0] if group[0][0] == 0 else [100, 101, 102], fetch
    )
    assert next(batches).tolist() == [0]
    assert going.wait(10)
    batches.close()
    assert got == [0, 100]


def test_an_error_of_fetching_ends_the_run() -> None:
    def fetch(part: int) -> None:
        raise StoreError("gone", code="E-REMOTE-ABSENT")

    with refuses("E-REMOTE-ABSENT"):
        next(fetch_ahead(groups_of(2), lambda group: [1], fetch))
