"""Training the follower on small houses: it learns, resumes, and refuses what cannot be right."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import Child, wait_for_update
from nav_world import (
    FAST,
    make_nav_world,
    nav_settings,
    paths_of,
    r2r_record,
    read_json,
    train_nav,
    write_house,
)
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.compare import compare
from clipfeat.train.navigation.results import read_results
from clipfeat.train.tasks import load_run
from clipfeat.train.tasks.navigation.data import normalised, read_training
from clipfeat.train.tasks.navigation.evaluation import (
    NavigationRequest,
    eval_run,
    format_eval,
)
from clipfeat.train.tasks.navigation.follower import FollowerTask
from clipfeat.train.tasks.navigation.settings import read_stages
from clipfeat.train.tasks.navigation.task import describe_selection

LAUNCH = "import sys; from clipfeat.train.launch import launch; sys.exit(launch(sys.argv[1:], 2))"
Typed = Callable[..., tuple[int, str, str]]
LEARN = ("updates=150", "batch_size=24", "lr=5e-3", "teacher_weight=1", "eval_every=50")
FILES = ("last.safetensors", "best.safetensors", "predictions_val_unseen.json", "scores.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nav_world(tmp_path_factory.mktemp("nav") / "world", houses=3)


@pytest.fixture(scope="module")
def learned(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that has learned to follow, and its result."""
    out = tmp_path_factory.mktemp("runs") / "learned"
    return out, train_nav(world, out, *LEARN)["follower"]


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nobody interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_nav(world, out)
    return out / "follower"


def test_the_follower_learns_to_follow(learned: tuple[Path, dict[str, Any]]) -> None:
    out, result = learned
    unseen = result["splits"]["val_unseen"]
    assert result["splits"]["val_seen"]["sr"] == 100
    assert unseen["sr"] > 65 > 2 * unseen["chance"]["never turns back"]["sr"]
    assert unseen["spl"] > 65
    assert unseen["ndtw"] > 65
    run = out / "follower"
    assert read_json(run / "result.json") == result
    assert result["selected_on"] == "val_seen"
    scores = read_json(run / "scores.json")
    assert scores["split"] == "val_unseen"
    assert set(scores["scores"]) == {0, 100}
    assert np.mean(scores["scores"]) == pytest.approx(unseen["sr"], abs=0.01)
    assert len(set(scores["images"])) == unseen["paths"]


def test_a_blind_twin_does_not(
    world: Path, learned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "blind"
    unseen = train_nav(world, out, *LEARN, "blind=true")["follower"]["splits"]["val_unseen"]
    assert unseen["sr"] < unseen["chance"]["never turns back"]["sr"] + 15
    seeing, blind = compare([learned[0] / "follower", out / "follower"])
    assert blind.is_sure
    assert blind.difference is not None
    assert blind.difference < -20
    assert blind.settings == {"blind": True}
    assert seeing.score > 65
    request = NavigationRequest(split="val_unseen", device="cpu")
    result = eval_run(learned[0], request, blind=out)
    assert result["sr"] == pytest.approx(seeing.score, abs=0.01)
    assert result["blind_twin"]["sr"] == unseen["sr"]
    assert f"{'blind twin':>26}" in format_eval(result)
    with refuses("E-RUN-BLIND", str(learned[0]), kind=UsageError):
        eval_run(out, request, blind=learned[0])


def test_a_run_is_scored_by_the_same_metrics_as_its_file(
    world: Path, learned: tuple[Path, dict[str, Any]], tmp_path: Path, typed: Typed
) -> None:
    out, result = learned
    unseen = result["splits"]["val_unseen"]
    page, submission = tmp_path / "page.html", tmp_path / "submission.json"
    words = ("eval", "nav", out, "--split", "val_unseen", "--device", "cpu", "--json")
    code, said, _ = typed(*words, "--page", page, "--submission", submission)
    again = json.loads(said)
    assert code == 0
    assert {name: again[name] for name in unseen} == unseen
    assert (again["stage"], again["selected_on"]) == ("follower", "val_seen")
    data = world / "data"
    code, said, _ = typed(
        *("eval", "nav", "--results", submission, "--data", data, "--split", "val_unseen"),
        *("--graphs", data / "connectivity", "--json"),
    )
    assert code == 0
    of_file = json.loads(said)
    assert {name: unseen[name] for name in of_file.keys() & unseen.keys()} == {
        name: of_file[name] for name in of_file.keys() & unseen.keys()
    }
    assert submission.read_bytes() == Path(unseen["predictions"]).read_bytes()
    assert "<svg" in page.read_text() or "<img" in page.read_text()


def test_forbidden_viewpoints_and_splits_without_goals(
    world: Path, learned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(learned[0], run)
    other = tmp_path / "world"
    shutil.copytree(world, other)
    data = other / "data"
    records = read_json(data / "R2R_val_unseen.json")
    for record in records:
        record["path"] = record["path"][:1]
    (data / "R2R_test.json").write_text(json.dumps(records))
    out = tmp_path / "submission.json"
    request: dict[str, Any] = {
        "split": "test",
        "data": data,
        "device": "cpu",
        "forbid_visited": True,
    }
    result = eval_run(run, NavigationRequest(**request, submission=out))
    assert "sr" not in result
    walks = read_results(out)
    assert len(walks) == result["n"] == len(records)
    assert all(len(set(walk)) == len(walk) for walk in walks.values())
    with refuses("E-NAV-PAGE", "--page", kind=UsageError):
        eval_run(run, NavigationRequest(**request, page=tmp_path / "page.html"))
    with refuses("E-NAV-GOALS", "R2R_test.json", kind=UsageError):
        train_nav(other, tmp_path / "new", "eval_split=val_seen+test")
    with refuses("E-DATA-FOLDER", "nowhere", kind=UsageError):
        train_nav(tmp_path / "nowhere", tmp_path / "new")
    with refuses("E-NAV-SCAN", "--graphs", kind=UsageError):
        eval_run(run, NavigationRequest(**request, graphs=tmp_path / "nowhere"))
    with refuses("E-NAV-SPLIT", kind=UsageError):
        eval_run(run, NavigationRequest(**dict(request, split="")))
    (tmp_path / "alone").mkdir()
    shutil.copy(data / "R2R_test.json", tmp_path / "alone")
    graphs_of_run = NavigationRequest(**dict(request, data=tmp_path / "alone"))
    assert eval_run(run, graphs_of_run)["n"] == result["n"]


def test_an_interrupted_run_goes_on_bit_for_bit(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, loss = [0], FollowerTask.loss

    def interrupted(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 15:  # checkpoints are after updates 6, 10 (an evaluation) and 12
            raise KeyboardInterrupt
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(FollowerTask, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_nav(world, tmp_path / "run")
    assert not (tmp_path / "run" / "follower" / "result.json").exists()
    train_nav(world, tmp_path / "run")
    for name in FILES:
        expected = (whole / name).read_bytes()
        assert (tmp_path / "run" / "follower" / name).read_bytes() == expected, name


@pytest.mark.slow
def test_a_killed_command_goes_on_bit_for_bit(world: Path, whole: Path, tmp_path: Path) -> None:
    sets = [f"--set={change}" for change in FAST]
    words = [
        *("train", "nav", "--store", str(world / "views.clipfeat"), "--data", str(world / "data")),
        *("--out", str(tmp_path / "run"), "--device", "cpu", *sets),
    ]
    child = Child(*words)
    wait_for_update(tmp_path / "run" / "follower", 13, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    child = Child(*words)
    _, messages = child.communicate()
    assert child.returncode == 0, messages
    assert "after update" in messages
    for name in FILES:
        expected = (whole / name).read_bytes()
        assert (tmp_path / "run" / "follower" / name).read_bytes() == expected, name


@pytest.mark.slow
def test_two_processes_walk_all_instructions(world: Path, tmp_path: Path) -> None:
    sets = [f"--set={change}" for change in (*FAST, "updates=4", "eval_every=4", "batch_size=7")]
    words = [
        *(sys.executable, "-c", LAUNCH, sys.executable, "-m", "clipfeat.cli", "train", "nav"),
        *("--store", str(world / "views.clipfeat"), "--data", str(world / "data")),
        *("--out", str(tmp_path / "run"), "--device", "cpu", *sets),
    ]
    done = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run" / "follower"
    again = eval_run(tmp_path / "run", NavigationRequest(split="val_unseen", device="cpu"))
    unseen = read_json(run / "result.json")["splits"]["val_unseen"]
    assert {name: again[name] for name in unseen} == unseen


def test_a_run_is_extended_and_known_wherever_the_graphs_lie(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "data" / "connectivity", tmp_path / "graphs")
    graphs = f"graphs={tmp_path}/graphs"
    train_nav(world, tmp_path / "run", "updates=10", graphs)
    train_nav(world, tmp_path / "run")  # the constant rate allows more updates
    for name in FILES:
        expected = (whole / name).read_bytes()
        assert (tmp_path / "run" / "follower" / name).read_bytes() == expected, name
    house = tmp_path / "graphs" / "house0_connectivity.json"
    house.write_text(house.read_text() + "\n")
    with refuses("E-RUN-DIFFERS", "house0_connectivity.json", kind=UsageError):
        train_nav(world, tmp_path / "run", graphs)


def test_a_run_is_loaded_with_its_words_and_statistics(world: Path, tmp_path: Path) -> None:
    train_nav(world, tmp_path, "updates=2", "norm=channel")
    trained = load_run(tmp_path)
    texts = [
        text for r in read_json(world / "data" / "R2R_train.json") for text in r["instructions"]
    ]
    assert {"go", "to", ",", "gold"} < set(trained.vocabulary.words)
    assert all(trained.vocabulary.known(trained.vocabulary.encode(texts)))
    cells = FeatureStore.open(world / "views.clipfeat")
    trained_on = [i for i in cells.ids if not str(i).startswith("house2")]
    features = cells.read(trained_on).features.astype(np.float64).reshape(-1, 12)
    np.testing.assert_allclose(trained.model.norm.mean, features.mean(0), atol=1e-5)
    assert trained.epoch == 1


def test_features_are_normalised_once_and_blind_ones_take_no_memory(world: Path) -> None:
    for norm, blind in (("none", False), ("channel", False), ("channel", True)):
        settings = nav_settings(f"norm={norm}", f"blind={str(blind).lower()}")
        data = read_training(
            settings,
            store=world / "views.clipfeat",
            data=world / "data",
            device=torch.device("cpu"),
        )
        features, norm_layer = data.environment.features, data.norm
        assert features.dtype == torch.float32
        ids = [f"{scan}_{name}" for scan, name in data.environment.numbers]
        stored = torch.from_numpy(data.store.read(ids).features).float()
        expected = (stored - norm_layer.mean) / norm_layer.get_buffer("std")
        torch.testing.assert_close(features, expected * (not blind))
        if blind:
            assert features.untyped_storage().nbytes() <= 8
    assert normalised(stored.half(), norm_layer, torch.device("cpu")).shape == stored.shape


def test_languages_of_rxr(tmp_path: Path) -> None:
    world = make_nav_world(tmp_path / "world", houses=2, languages="en-IN+en-US+te-IN+hi-IN")
    short = ("updates=2", "eval_every=2")
    counts = {}
    for languages in ("", "en", "te-IN+hi-IN"):
        out = tmp_path / f"run{languages}"
        result = train_nav(world, out, *short, f'languages="{languages}"')["follower"]
        unseen = result["splits"]["val_unseen"]
        counts[languages] = unseen["n"]
        assert (
            set(unseen["by_language"])
            == {
                "": {"en-IN", "en-US", "te-IN", "hi-IN"},
                "en": {"en-IN", "en-US"},
                "te-IN+hi-IN": {"te-IN", "hi-IN"},
            }[languages]
        )
        assert unseen["predictions"].endswith("predictions_val_unseen.jsonl")
        lines = Path(unseen["predictions"]).read_text().splitlines()
        assert len(lines) == unseen["n"]
        assert type(json.loads(lines[0])["instruction_id"]) is int
    assert counts[""] == counts["en"] + counts["te-IN+hi-IN"]
    with refuses("E-NAV-LANGUAGE", "'fr'", kind=UsageError):
        train_nav(world, tmp_path / "french", "languages=fr")


def test_the_reference_is_followed_with_the_reward_ndtw(world: Path, tmp_path: Path) -> None:
    changes = ("updates=4", "eval_every=4", "teacher=reference", "reward=ndtw")
    train_nav(world, tmp_path / "run", *changes)
    train_nav(world, tmp_path / "other", "updates=4", "eval_every=4")
    losses = [
        [
            json.loads(line).get("loss")
            for line in (tmp_path / run / "follower" / "metrics.jsonl").open()
        ]
        for run in ("run", "other")
    ]
    assert losses[0] != losses[1]


def broken(world: Path, folder: Path, change: Callable[[list[Any]], object]) -> Path:
    """Return a copy of a world whose training split was changed."""
    shutil.copytree(world, folder)
    path = folder / "data" / "R2R_train.json"
    records = read_json(path)
    change(records)
    path.write_text(json.dumps(records))
    return folder


def test_what_cannot_be_right_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    with refuses("E-SPLIT-SHARED", "instructions", kind=UsageError):
        train_nav(world, tmp_path / "a", "train_split=train+val_seen")
    with refuses("E-SETTINGS-CHOICE", "select_split=val_unseen", kind=UsageError):
        nav_settings("eval_split=val_unseen")
    with refuses("E-NAV-SCAN", "nowhere", kind=UsageError):
        train_nav(world, tmp_path / "b", "graphs=/nowhere")
    with refuses("E-VOCAB-EMPTY", "min_count"):
        train_nav(world, tmp_path / "c", "min_count=100000")
    with refuses("E-NAV-STAGE", "painter", kind=UsageError):
        read_stages("follower,painter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with refuses("E-RUN-FOLDER", kind=UsageError):
        train_nav(world, tmp_path / "full")
    assert not (tmp_path / "a").exists()


def test_scans_without_features_are_named_or_left_out(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = broken(world, tmp_path / "world", lambda rows: None)
    scan = write_house(other / "data" / "connectivity", "attic", np.random.default_rng(0))
    path = other / "data" / "R2R_train.json"
    added = [r2r_record(scan, 9000 + n, p) for n, p in enumerate(paths_of(scan)[:5])]
    path.write_text(json.dumps(read_json(path) + added))
    with refuses("E-NAV-FEATURES", "'attic_", "9 viewpoints", kind=UsageError):
        train_nav(other, tmp_path / "run", "skip_missing=4")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train_nav(other, tmp_path / "run", "skip_missing=5", "updates=1")
    assert caplog.text.count("5 episodes left out: a viewpoint without features") == 1


def test_instructions_without_a_known_word_are_counted(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = broken(world, tmp_path / "world", lambda rows: rows[0].update(instructions=["Xyzzy!"]))
    with caplog.at_level(logging.INFO):
        train_nav(other, tmp_path / "run", "updates=1", "min_count=2")
    assert "split 'train': 1 of" in caplog.text
    assert "instructions have no word of the vocabulary" in caplog.text


def test_a_score_on_the_split_that_selects_is_called_optimistic(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, typed: Typed
) -> None:
    assert not describe_selection(nav_settings())
    assert not describe_selection(nav_settings("eval_split="))
    for changes in (
        ("eval_split=val_seen",),
        ("select_split=val_unseen",),
    ):
        assert "optimistic" in describe_selection(nav_settings(*changes))
    with caplog.at_level(logging.INFO):
        train_nav(world, tmp_path / "run", "updates=1", "select_split=val_unseen")
    assert "val_unseen chooses the checkpoint" in caplog.text
    code, said, _ = typed(
        "eval", "nav", tmp_path / "run", "--split", "val_unseen", "--device", "cpu"
    )
    assert code == 0
    assert "this split chose the checkpoint" in said


def test_without_a_held_out_split_nothing_is_scored(world: Path, tmp_path: Path) -> None:
    result = train_nav(world, tmp_path / "run", "updates=2", "eval_split=")["follower"]
    assert result == {"split": "", "epoch": 1, "blind": False}


def test_the_command_trains_and_prints(world: Path, tmp_path: Path, typed: Typed) -> None:
    sets = [f"--set={change}" for change in (*FAST, "updates=2")]
    given = ("--store", world / "views.clipfeat", "--data", world / "data", "--device", "cpu")
    graphs = ("--graphs", world / "data" / "connectivity")
    code, said, _ = typed("train", "nav", *given, *graphs, "--out", tmp_path / "run", *sets)
    assert code == 0
    assert "val_unseen: 44 instructions" in said
    assert "chance: never turns back" in said
    record = read_json(tmp_path / "run" / "follower" / "settings.json")
    assert record["settings"]["graphs"] == str(world / "data" / "connectivity")
    assert not record["settings"].keys() & {"speaker", "back_translation"}
    assert "R2R_train.json" in record["data_files"]
    assert "house1_connectivity.json" in record["data_files"]
    code, _, said = typed("train", "nav", *given, "--out", tmp_path / "x", "--stage", "painter")
    assert code
    assert "E-NAV-STAGE" in said
    code, _, said = typed("eval", "nav", tmp_path / "run")
    assert "E-OPTION-MISSING" in said
    code, _, said = typed("eval", "nav", tmp_path / "run", "--split", "a", "--results", "r.json")
    assert "E-OPTION-EXCLUDES" in said
    code, _, said = typed("eval", "nav", "--results", "r.json", "--split", "a")
    assert "E-OPTION-MISSING" in said
