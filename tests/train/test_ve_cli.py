"""`clipfeat train ve` and `clipfeat eval ve` as typed."""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ve_world import FAST, make_world, rows_of, write_rows

from clipfeat.train import fit
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.entailment import EntailmentTask
from clipfeat.train.tasks.settings import VE_PRESETS, VeSettings

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), name="{}.jpg")


def trained(world: World, out: Path, *changes: str) -> Path:
    settings = load_settings(VeSettings, config=None, assignments=[*FAST, *changes])
    fit(EntailmentTask(settings, store=world[0], data=world[1], device="cpu"), out)
    return out


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(world, tmp_path_factory.mktemp("runs") / "run", "epochs=15")


@pytest.fixture(scope="module")
def blind(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(world, tmp_path_factory.mktemp("runs") / "blind", "epochs=4", "blind=true")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_tiny_world_is_learned_and_the_blind_twin_is_not_as_good(
    run: Path, blind: Path
) -> None:
    seeing, unseeing = read(run / "result.json"), read(blind / "result.json")
    assert (seeing["split"], seeing["n"], seeing["dropped"], seeing["skipped"]) == ("dev", 60, 0, 0)
    assert seeing["accuracy"] > 95
    assert (unseeing["blind"], unseeing["by_class"]["neutral"]) == (True, 100)
    assert seeing["accuracy"] > unseeing["accuracy"] + 10
    assert read(run / "vocabulary.json")["answers"] == ["entailment", "neutral", "contradiction"]


def test_a_run_folder_is_whole(run: Path) -> None:
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    table, result = read(run / "scores.json"), read(run / "result.json")
    assert (table["split"], len(table["ids"]), table["images"][0]) == ("dev", 60, "61.jpg")
    assert round(sum(table["scores"]) / 60, 2) == result["accuracy"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["score"] for line in lines if "score" in line) == result["accuracy"]
    card = read(run / "settings.json")
    assert (card["task"], card["data_files"].keys()) == (
        "ve",
        {"snli_ve_train.jsonl", "snli_ve_dev.jsonl"},
    )


def test_where_eval_writes_is_checked_before_it_computes(
    run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _, mode: mode == os.R_OK)
    monkeypatch.setattr("clipfeat.train.tasks.entailment.predict_with", None)
    code, _, err = typed("eval", "ve", run, "--split", "dev")
    assert (code, err.split()[-1]) == (2, "[E-PATH-WRITE]")


def test_eval_gives_the_result_of_training(run: Path, typed: Typed) -> None:
    code, out, err = typed("eval", "ve", run, "--split", "dev", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    path = run / "predictions_dev.jsonl"
    assert json.loads(out) == read(run / "result.json") | {"predictions": str(path)}
    assert path.read_text() == (run / "predictions.jsonl").read_text()


def test_a_file_of_labels_is_scored_without_a_run(
    run: Path, world: World, tmp_path: Path, typed: Typed
) -> None:
    pairs, result = world[1] / "snli_ve_dev.jsonl", read(run / "result.json")
    words = ("eval", "ve", "--predictions", run / "predictions.jsonl", "--pairs", pairs)
    code, out, _ = typed(*words, "--json")
    scored = json.loads(out)
    same = ("n", "accuracy", "by_class", "confusion", "dropped")
    assert (code, scored) == (0, {key: result[key] for key in same})
    code, out, _ = typed(*words)
    assert (code, f"{result['accuracy']:6.2f}  accuracy" in out) == (0, True)
    code, _, err = typed(*words[:-1], run / "settings.json")
    assert (code, "[E-DATA-FILE]" in err) == (1, True)
    for bad in (words[:4], (*words, "--split", "dev"), ("eval", "ve", run, *words[2:])):
        code, out, err = typed(*bad)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_blind_twin_stands_beside(run: Path, blind: Path, typed: Typed) -> None:
    words = ["eval", "ve", run, "--split", "test", "--blind", blind, "--device", "cpu"]
    code, out, err = typed(*words, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["n"], result["hypothesis_only"]["n"]) == (60, 60)
    assert result["accuracy"] > result["hypothesis_only"]["accuracy"]
    assert "hypothesis only (blind twin)" in typed(*words)[1]
    code, _, err = typed("eval", "ve", run, "--split", "test", "--blind", run)
    assert (code, err.count("\n")) == (2, 1)
    assert "was trained with blind=false; pass a run with blind=true" in err


def test_runs_are_compared(run: Path, blind: Path, typed: Typed) -> None:
    code, out, err = typed("compare", blind, run, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[1]["difference"] > 10


def test_train_as_typed(world: World, tmp_path: Path, typed: Typed) -> None:
    rows = [*rows_of(61), rows_of(62)[0] | {"gold_label": "-"}, rows_of(999)[0]]
    data = tmp_path / "data"
    write_rows(data / "snli_ve_train.jsonl", rows_of(1) + rows_of(2))
    write_rows(data / "snli_ve_dev.jsonl", rows)
    sets = [f"--set={change}" for change in (*FAST, "epochs=1")]
    words = ["train", "ve", "default", "--store", world[0], "--data", data, *sets]
    words += ["--out", tmp_path / "run", "--device", "cpu"]
    code, _, err = typed(*words)
    assert (code, err.count("\n")) == (1, 1)
    assert "such as 999 or 999.jpg" in err
    assert not (tmp_path / "run").exists()
    code, out, err = typed(*words, "--skip-missing", "1", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["n"], result["dropped"], result["skipped"]) == (4, 1, 1)
    assert sum(map(sum, (row.values() for row in result["confusion"].values()))) == 3
    assert read(tmp_path / "run" / "scores.json")["images"][-1] == "999"
    code, out, _ = typed("eval", "ve", tmp_path / "run", "--split", "dev", "--device", "cpu")
    assert code == 0
    assert "1 pair dropped, without a gold label" in out
    assert "counted as wrong: 1 pair without features" in out


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--data": "nowhere"}, 2, "nowhere is not a folder"),
        ({"--set": "dataset=vqa2"}, 2, "dataset must be one of snli_ve, esnlive; got 'vqa2'"),
        (
            {"--set": "dataset=esnlive"},
            2,
            "has no esnlive_train.csv, the pairs of split 'train' (dataset=",
        ),
        ({"--set": "eval_split=train"}, 2, "eval_split train shares 180 pairs with train_split"),
        ({"--set": "answer_list=x"}, 2, "no setting is named 'answer_list'"),
        ({"--gpus": "1"}, 2, "--gpus and --device cpu exclude each other"),
    ],
)
def test_mistakes_get_one_line(
    world: World, tmp_path: Path, typed: Typed, changes: dict[str, str], code: int, message: str
) -> None:
    options = {"--store": world[0], "--data": world[1], "--out": tmp_path / "run"}
    options |= {"--device": "cpu"} | changes
    got, out, err = typed("train", "ve", *(word for pair in options.items() for word in pair))
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_task_is_refused(run: Path, typed: Typed) -> None:
    code, _, err = typed("eval", "vqa", run, "--split", "dev")
    assert (code, err) == (2, f"Error: {run} is a run of task 've', not vqa [E-RUN-TASK]\n")


def test_training_without_a_held_out_split(world: World, tmp_path: Path, typed: Typed) -> None:
    sets = [f"--set={change}" for change in (*FAST, "epochs=1", "eval_split=")]
    words = ["--store", world[0], "--data", world[1], "--out", tmp_path / "run", "--device", "cpu"]
    code, out, err = typed("train", "ve", *words, *sets)
    assert (code, err) == (0, "")
    assert out == "trained to epoch 1; no eval_split, so that nothing is scored\n"


def test_the_default_file_lists_every_setting_at_its_default() -> None:
    path = VE_PRESETS / "default.toml"
    settings = load_settings(VeSettings, config=path, assignments=[])
    assert settings == VeSettings()
    assert tomllib.loads(path.read_text()).keys() == VeSettings.__dataclass_fields__.keys()
