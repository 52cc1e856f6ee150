"""`clipfeat train caption` in both stages, as typed and as called."""

import dataclasses
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caption_world import (
    FAST,
    TRANSFORMER,
    UPDN,
    caption_of,
    make_world,
    row_of,
    train_world,
    write_rows,
)

from clipfeat.train.schedule import learning_rate, total_updates
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import CAPTION_PRESETS, CaptionSettings

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def words(world: World, out: Path, *changes: str) -> list[str]:
    sets = [f"--set={change}" for change in (*FAST, TRANSFORMER, *changes)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    return ["train", "caption", *paths, *sets, "--device", "cpu"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train_world(world, out, stages=("xe", "scst"))
    return out


def test_the_tiny_world_is_learned_to_the_word(run: Path) -> None:
    losses = [line["loss"] for line in metrics(run / "xe") if "loss" in line]
    assert losses[-1] < losses[0] / 4
    for stage in ("xe", "scst"):
        captions = read(run / stage / "predictions.json")
        right = {image: caption_of(image).lower()[:-1] for image in range(31, 41)}
        assert {c["image_id"]: c["caption"] for c in captions} == right
        result = read(run / stage / "result.json")
        assert (result["split"], result["stage"], result["n"]) == ("val", stage, 10)
        # A caption that equals its references has a cosine of 1 for each n of its n-grams.
        assert (result["cider_d"], result["skipped"], result["blind"]) == (1000, 0, False)


def test_a_stage_folder_is_whole(run: Path) -> None:
    for stage in ("xe", "scst"):
        folder = run / stage
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        table = read(folder / "scores.json")
        assert (table["split"], table["ids"]) == ("val", [*range(31, 41)])
        assert table["images"] == table["ids"]
        assert table["scores"] == [1000] * 10
        assert max(line["score"] for line in metrics(folder) if "score" in line) == 1000
        assert read(folder / "settings.json")["task"] == "caption"
        assert read(folder / "vocabulary.json")["words"] == [
            *("a", "blue", "green", "here", "red", "shape"),
        ]
    first, second = (read(run / stage / "settings.json") for stage in ("xe", "scst"))
    assert "scst" not in first["settings"]
    assert (second["settings"]["lr"], second["settings"]["schedule"]) == (3e-4, "constant")
    assert second["data_files"].keys() == {"dataset_coco.json", "best.safetensors"}
    # 30 images in batches of 8, two epochs
    assert [line["step"] for line in metrics(run / "scst") if "loss" in line] == [*range(1, 9)]


def test_the_blind_twin_says_the_same_of_every_image(world: World, tmp_path: Path) -> None:
    changes = ("blind=true", "epochs=4")
    results = train_world(world, tmp_path / "blind", *changes, stages=("xe",))
    captions = read(tmp_path / "blind" / "xe" / "predictions.json")
    assert len({caption["caption"] for caption in captions}) == 1
    assert (results["xe"]["blind"], results["xe"]["cider_d"] < 900) == (True, True)


@pytest.mark.slow
def test_the_second_stage_may_be_trained_by_itself_and_again_with_other_numbers(
    world: World, run: Path, tmp_path: Path, typed: Typed
) -> None:
    out = tmp_path / "run"
    code, _, err = typed(*words(world, out), "--stage", "scst")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{out / 'xe'} has none" in err
    assert "[E-RUN-BEST]" in err
    assert not out.exists()
    code, told, err = typed(*words(world, out), "--stage", "xe", "--json")
    assert (code, err) == (0, "")
    assert json.loads(told).keys() == {"xe"}
    code, told, err = typed(*words(world, out), "--stage", "scst", "--profile")
    assert code == 0
    assert "8 updates" in err
    assert "1000.00  CIDEr-D, times 100" in told
    for name in ("last.safetensors", "best.safetensors", "predictions.json"):
        assert (out / "scst" / name).read_bytes() == (run / "scst" / name).read_bytes()
    code, _, err = typed(*words(world, out, "scst.lr=1e-4"), "--stage", "scst")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{out / 'scst'} holds a run with lr 0.0003, not 0.0001; scst.lr" in err
    code, _, err = typed(*words(world, out, "lr=1e-4"), "--stage", "scst")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{out / 'xe'} holds a run with lr 0.003, not 0.0001" in err


@pytest.mark.slow
def test_the_other_model_vocabulary_data_set_and_baseline(world: World, tmp_path: Path) -> None:
    rows = read(world[1] / "dataset_coco.json")["images"]
    for split, name in (("train", "train2014"), ("val", "val2014")):
        mine = [row for row in rows if row["split"] == split]
        content = {
            "images": [{"id": row["cocoid"]} for row in mine],
            "annotations": [
                {"image_id": row["cocoid"], "caption": sentence["raw"]}
                for row in mine
                for sentence in row["sentences"]
            ],
        }
        (tmp_path / f"captions_{name}.json").write_text(json.dumps(content))
    changes = ("dataset=coco", "bpe=40", "scst.baseline=mean", "label_smoothing=0.1")
    more = ("epochs=20", "lr=1e-2", UPDN)
    results = train_world(
        (world[0], tmp_path), tmp_path / "run", *changes, *more, stages=("xe", "scst")
    )
    assert read(tmp_path / "run" / "xe" / "vocabulary.json")["kind"] == "bpe"
    assert [results[stage]["cider_d"] for stage in ("xe", "scst")] == [1000, 1000]


def test_training_without_a_held_out_split(world: World, tmp_path: Path, typed: Typed) -> None:
    changes = ("epochs=1", "scst.epochs=1", "eval_split=")
    code, out, err = typed(*words(world, tmp_path / "run", *changes))
    assert (code, err) == (0, "")
    line = "trained to epoch 1; no eval_split, so that nothing is scored\n"
    assert out == f"{line}\n{line}"
    assert read(tmp_path / "run" / "scst" / "result.json")["stage"] == "scst"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--data": "nowhere"}, 2, "nowhere is not a folder"),
        ({"--set": "dataset=vqa2"}, 2, "dataset must be one of karpathy_coco"),
        ({"--set": "dataset=coco"}, 2, "the captions of split 'train'; pass the folder"),
        ({"--set": "train_split=dev"}, 2, "has no images of split 'dev'; its splits: test, train"),
        ({"--set": "eval_split=train"}, 2, "eval_split train shares 30 images with train_split"),
        ({"--set": "min_count=6000"}, 1, "pass --set min_count=1"),
        ({"--set": "bpe=3"}, 1, "3 tokens cannot hold the letters"),
        ({"--set": "scst.samples=0"}, 2, "samples must be at least 1; got 0"),
        ({"--set": "scst.lr=0"}, 2, "scst.lr must be more than 0; got 0.0"),
        ({"--set": "scst.baseline=best"}, 2, "baseline must be one of greedy, mean; got 'best'"),
        ({"--set": "scst={samples=1, baseline='mean'}"}, 2, "samples must be at least 2; got 1"),
        ({"--set": "decoding.beams=0"}, 2, "beams must be at least 1; got 0"),
        ({"--set": "decoding.max_tokens=513"}, 2, "max_tokens must be at most 512; got 513"),
        ({"--set": "label_smoothing=1"}, 2, "label_smoothing must be at least 0 and below 1"),
        ({"--stage": "scst,xe"}, 2, "'scst,xe' is not one of 'xe', 'scst', 'xe,scst'"),
    ],
)
def test_mistakes_get_one_line(
    world: World, tmp_path: Path, typed: Typed, changes: dict[str, str], code: int, message: str
) -> None:
    options = {"--store": world[0], "--data": world[1], "--out": tmp_path / "run"}
    options |= {"--device": "cpu"} | changes
    got, out, err = typed("train", "caption", *(word for pair in options.items() for word in pair))
    assert (got, out) == (code, "")
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row_of(1, "train", "?!"), row_of(31, "val")], "1 of 1 images have no caption, such as 1"),
        (
            [row_of(1, "train"), row_of(31, "val", "Ein Haus")],
            "split 'val': 1 of 1 captions have no word of the vocabulary",
        ),
        ([row_of(1, "train"), row_of(31, "val", "")], "1 of 1 images have no caption, such as 31"),
        ([row_of(1, "train"), row_of(999, "val")], "2 of 2 captions of split 'val' are about 1"),
    ],
)
def test_data_without_captions_are_refused(
    world: World, tmp_path: Path, typed: Typed, rows: list[Any], message: str
) -> None:
    data = write_rows(tmp_path / "data", rows)
    code, out, err = typed(*words((world[0], data), tmp_path / "run"))
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(world: World, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "notes.txt").touch()
    for out, problem in (
        (tmp_path, "[E-RUN-FOLDER]"),
        (tmp_path / "notes.txt", "[E-PATH-FOLDER]"),
    ):
        code, _, err = typed(*words(world, out))
        assert (code, err.count("\n")) == (2, 1)
        assert f"{out} " in err
        assert problem in err


def test_the_default_file_lists_every_setting_at_its_default() -> None:
    listed = tomllib.loads((CAPTION_PRESETS / "default.toml").read_text())
    for table in ("decoding", "scst"):
        listed[table]["name"] = table
    assert listed == json.loads(json.dumps(dataclasses.asdict(CaptionSettings())))


@pytest.mark.parametrize("name", ["default", "demo", "transformer", "updn"])
def test_every_preset_says_its_command_and_loads(name: str) -> None:
    head = (CAPTION_PRESETS / f"{name}.toml").read_text()[:900]
    assert f"clipfeat train caption {name} " in head
    assert "Expected time: " in head
    assert "Expected score: " in head
    load_settings(CaptionSettings, config=CAPTION_PRESETS / f"{name}.toml", assignments=[])


def test_the_transformer_has_the_schedule_of_the_paper() -> None:
    """Noam's, as published: 512^-0.5 * min(n^-0.5, n * 20,000^-1.5) at update n from 1."""
    preset = load_settings(
        CaptionSettings, config=CAPTION_PRESETS / "transformer.toml", assignments=[]
    )
    steps = total_updates(preset, 566_747)  # captions of Karpathy's train and restval
    for update in (1, 5_000, 20_000, 20_001, 80_000, steps):
        expected = 512**-0.5 * min(update**-0.5, update * 20_000**-1.5)
        assert learning_rate(update - 1, steps, preset) == pytest.approx(expected, rel=1e-4)
    assert (preset.clip_norm, preset.clip_value, preset.eval_every) == (0, 0.1, 3000)
    assert (preset.norm, preset.precision) == ("none", "float32")
    assert preset.scst.dropout
    second = preset.self_critical
    assert (second.clip_value, second.eval_every) == (0.1, 3000)
    rates = {learning_rate(step, 10, second) for step in range(10)}
    assert (rates, second.epochs, second.batch_size) == ({5e-6}, 25, 10)


def test_updn_has_the_schedule_of_the_public_code() -> None:
    """From 5e-4, times 0.8 after every third epoch; the second stage's rate is constant."""
    preset = load_settings(CaptionSettings, config=CAPTION_PRESETS / "updn.toml", assignments=[])
    steps = total_updates(preset, 566_747)
    for epoch in range(30):
        expected = 5e-4 * 0.8 ** (epoch // 3)
        middle = (2 * epoch + 1) * steps // 60
        assert learning_rate(middle, steps, preset) == pytest.approx(expected)
    assert learning_rate(7, 10, preset.self_critical) == 5e-5
