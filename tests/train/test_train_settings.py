"""Settings from TOML and from key=value texts."""

import dataclasses
import json
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.models.settings import McanSettings, UpDnSettings
from clipfeat.train.schedule import learning_rate, total_updates
from clipfeat.train.settings import find_config, load_settings
from clipfeat.train.tasks.settings import VE_PRESETS, VQA_PRESETS, VeSettings, VqaSettings

MODELS = "updn, updn_large, pythia, mcan, movie_mcan, attentive_probe, linear_probe, single_stream"


def settings(*assignments: str, config: Path | None = None) -> VqaSettings:
    return load_settings(VqaSettings, config=config, assignments=assignments)


def test_default_config_lists_every_setting_at_its_default() -> None:
    import tomllib

    listed = tomllib.loads((VQA_PRESETS / "default.toml").read_text())
    assert listed == json.loads(json.dumps(dataclasses.asdict(VqaSettings())))  # tuples as lists


def test_assignments_go_on_top_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("epochs = 3\n[model]\nhidden = 64\n")
    result = settings("epochs=5", "blind=true", "lr=1", "train_split=mini", config=config)
    assert result.model == UpDnSettings(hidden=64)
    assert (result.epochs, result.blind) == (5, True)
    assert (result.lr, type(result.lr), result.train_split) == (1.0, float, "mini")
    model = settings("model=mcan", "model.hidden=64", config=config).model
    assert model == McanSettings(hidden=64)
    assert settings('train_split="a b"').train_split == "a b"


@pytest.mark.parametrize(
    ("assignment", "kind", "names"),
    [
        ("epoch=3", "NAME", ("'epoch'", "did you mean epochs")),
        ("zzz=3", "NAME", ("'zzz'", "known: seed, epochs")),
        ("epochs=3.0", "TYPE", ("epochs must be an int", "3.0")),
        ("epochs=true", "TYPE", ("epochs must be an int", "True")),
        ("lr=fast", "TYPE", ("lr must be a float", "'fast'")),
        ("lr=nan", "TYPE", ("lr must be a float", "nan")),
        ("blind=1", "TYPE", ("blind must be a bool", "1")),
        ("model=ban", "CHOICE", (MODELS, "'ban'")),
        ("model={name=[1]}", "CHOICE", (MODELS, "[1]")),
        (f"seed={1 << 64}", "RANGE", ("seed", "2^63", "65 bits")),
        (f"lr=1{'0' * 400}", "RANGE", ("lr", "2^63")),
        ("epochs=" + 3000 * "[", "ASSIGN", ("--set epochs",)),
        ("epochs=0", "RANGE", ("epochs must be at least 1", "0")),
        ("lr=0", "RANGE", ("lr must be more than 0", "0.0")),
        ("layer_decay=0", "RANGE", ("layer_decay must be more than 0 and at most 1", "0.0")),
        ("layer_decay=1.1", "RANGE", ("layer_decay", "1.1")),
        ("warmup=2", "RANGE", ("warmup", "2.0")),
        ("clip_value=-1", "RANGE", ("clip_value must be at least 0", "-1.0")),
        ("model.dropout=1", "RANGE", ("dropout must be at least 0 and below 1", "1.0")),
        ("precision=fp8", "CHOICE", ("precision", "float32, bfloat16, float16", "'fp8'")),
        ("betas=0.9", "TYPE", ("betas must be an array", "0.9")),
        ("betas=[0.9]", "RANGE", ("betas must be two numbers", "(0.9,)")),
        ("betas=[0.9, 1]", "RANGE", ("betas must be two numbers", "(0.9, 1.0)")),
        ("betas=[0.9, true]", "TYPE", ("each of betas", "True")),
        ("schedule=step", "SCHEDULE", ("milestones",)),
        ("milestones=[0.5]", "SCHEDULE", ("milestones", "0.5")),
        ("cache=disk", "CHOICE", ("cache", "none, memory, device", "'disk'")),
        ("model.hiden=3", "NAME", ("'model.hiden'", "did you mean model.hidden")),
        ("model.hidden=big", "TYPE", ("model.hidden must be an int", "'big'")),
        ("model=3", "TABLE", ("model", "3")),
        ("max_tokens=513", "RANGE", ("max_tokens must be at most 512", "513")),
        ("seed.x=3", "TYPE", ("seed must be an int", "{'x': 3}")),
        ("epochs", "ASSIGN", ("--set epochs=3", "'epochs'")),
        ("=3", "ASSIGN", ("key=value",)),
    ],
)
def test_wrong_assignments_are_refused(assignment: str, kind: str, names: tuple[str, ...]) -> None:
    with refuses(f"E-SETTINGS-{kind}", *names, kind=UsageError):
        settings(assignment)


def test_the_gradient_is_clipped_in_one_way() -> None:
    assert settings("clip_norm=0", "clip_value=0.1").clip_value == 0.1
    with refuses("E-SETTINGS-CLIP", "clip_norm=0", "1.0 and 0.1", kind=UsageError):
        settings("clip_value=0.1")


def test_noam_needs_a_warm_up() -> None:
    with refuses("E-SETTINGS-SCHEDULE", "noam", "warmup", kind=UsageError):
        settings("schedule=noam", "warmup=0")


def test_broken_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = = 3")
    with refuses("E-SETTINGS-FILE", "broken.toml", kind=UsageError):
        settings(config=broken)
    broken.write_bytes(b"\xff\xfe")
    with refuses("E-SETTINGS-FILE", "broken.toml", kind=UsageError):
        settings(config=broken)


def test_a_config_is_a_path_or_the_name_of_a_preset(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.touch()
    assert find_config(str(mine), VQA_PRESETS) == mine
    assert find_config("default", VQA_PRESETS) == VQA_PRESETS / "default.toml"
    with refuses("E-SETTINGS-FILE", "nowhere", "default", kind=UsageError):
        find_config("nowhere", VQA_PRESETS)


def test_there_is_a_preset_for_each_model_of_the_paper_and_for_each_probe() -> None:
    names = {path.stem for path in VQA_PRESETS.glob("*.toml")}
    assert {"default", "pythia", "mcan_small", "mcan_large", "movie_mcan"} < names
    probes = {"attentive_probe", "linear_probe"}
    assert probes < names & {path.stem for path in VE_PRESETS.glob("*.toml")}


@pytest.mark.parametrize(
    ("task", "presets", "kind"), [("vqa", VQA_PRESETS, VqaSettings), ("ve", VE_PRESETS, VeSettings)]
)
def test_every_preset_says_its_command_and_loads(
    task: str, presets: Path, kind: type[VqaSettings | VeSettings]
) -> None:
    for path in presets.glob("*.toml"):
        head = path.read_text()[:900]
        name = path.stem
        assert f"clipfeat train {task} {name}" in head or f"make train-{task} CONFIG={name}" in head
        assert "Expected time: " in head
        assert "Expected score: " in head
        load_settings(kind, config=find_config(name, presets), assignments=[])


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("pythia", {"batch_size": 512, "lr": 1e-2, "clip_norm": 0.25, "model.dropout": 0.0}),
        ("mcan_small", {"batch_size": 64, "lr": 1e-4, "model.reduction": 512, "model.joint": 1024}),
        ("mcan_large", {"batch_size": 64, "lr": 7e-5, "model.reduction": 512, "model.joint": 2048}),
        ("movie_mcan", {"batch_size": 64, "lr": 5e-5, "updates": 236_000, "model.hidden": 1024}),
        ("updn_large", {"batch_size": 512, "lr": 2e-3, "epochs": 30, "model.dropout": 0.5}),
    ],
)
def test_published_presets_have_the_numbers_of_their_code(
    name: str, numbers: dict[str, float]
) -> None:
    """mmf's configurations for CLIP-ViL, OpenVQA's, and hengyuan-hu's; questions shuffled singly."""
    preset = load_settings(VqaSettings, config=VQA_PRESETS / f"{name}.toml", assignments=[])
    flat = dataclasses.asdict(preset)
    flat |= {f"model.{key}": value for key, value in flat["model"].items()}
    numbers |= {"max_texts_per_image": 1, "max_tokens": 14, "min_answer_count": 9}
    assert {key: flat[key] for key in numbers} == numbers
    assert (preset.train_split, preset.eval_split) == ("train", "val")
    assert preset.answer_split == "train+val"
    assert (preset.norm, preset.word_weight, preset.precision) == ("none", 0.0, "float32")


@pytest.mark.parametrize("name", ["mcan_small", "mcan_large"])
def test_mcan_warms_up_in_openvqas_steps(name: str) -> None:
    """An epoch each at 1/4, 2/4 and 3/4 of the rate; at epochs 10 and 12 it falls to 1/5."""
    preset = load_settings(VqaSettings, config=VQA_PRESETS / f"{name}.toml", assignments=[])
    epoch = -(-443_757 // 64)
    steps = total_updates(preset, 443_757)
    shares = [0.25, 0.5, 0.75, *[1] * 7, 0.2, 0.2, 0.04]
    for number, share in enumerate(shares):
        middle = learning_rate(number * epoch + epoch // 2, steps, preset)
        assert middle == pytest.approx(share * preset.lr)


@pytest.mark.parametrize(
    ("name", "falls", "last_warm"),
    [
        ("pythia", {15_000: 0.1, 18_000: 0.01, 20_000: 1e-3, 21_000: 1e-4}, 1_000),
        ("movie_mcan", {180_000: 0.2, 216_000: 0.04}, 54_000),
    ],
)
def test_presets_have_the_schedules_of_the_paper(
    name: str, falls: dict[int, float], last_warm: int
) -> None:
    """Updates at which the rate changes, from CLIP-ViL's configurations."""
    preset = load_settings(VqaSettings, config=VQA_PRESETS / f"{name}.toml", assignments=[])
    steps = total_updates(preset, 443_757)

    def rate(step: int) -> float:
        return learning_rate(step, steps, preset) / preset.lr

    assert rate(last_warm - 2) < 1
    assert rate(last_warm - 1) == pytest.approx(1)
    assert rate(0) == pytest.approx(preset.warmup_from, rel=1e-2)
    before = 1.0
    for update, after in falls.items():
        assert rate(update - 1) == pytest.approx(before)
        assert rate(update) == pytest.approx(after)
        before = after
