"""Settings from TOML and from key=value texts."""

import dataclasses
import json
from pathlib import Path

import pytest

from clipfeat.base.errors import UsageError
from clipfeat.train.models.settings import McanSettings
from clipfeat.train.schedule import learning_rate, total_updates
from clipfeat.train.settings import find_config, load_settings
from clipfeat.train.tasks.settings import VQA_PRESETS, VqaSettings


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
    assert (result.epochs, result.model.hidden, result.blind) == (5, 64, True)
    assert (result.lr, type(result.lr), result.train_split) == (1.0, float, "mini")
    model = settings("model=mcan", "model.hidden=64", config=config).model
    assert model == McanSettings(hidden=64)
    assert settings('train_split="a b"').train_split == "a b"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "no setting is named 'epoch'; did you mean epochs"),
        ("zzz=3", "no setting is named 'zzz'; known: seed, epochs"),
        ("epochs=3.0", "epochs must be an int; got 3.0"),
        ("epochs=true", "epochs must be an int; got True"),
        ("lr=fast", "lr must be a float; got 'fast'"),
        ("lr=nan", "lr must be a float; got nan"),
        ("blind=1", "blind must be a bool; got 1"),
        (
            "model=ban",
            "model must be one of updn, pythia, mcan, movie_mcan, single_stream; got 'ban'",
        ),
        (
            "model={name=[1]}",
            "model must be one of updn, pythia, mcan, movie_mcan, single_stream; got [1]",
        ),
        (f"seed={1 << 64}", "seed must be less than 2^63; got a number of 65 bits"),
        (f"lr=1{'0' * 400}", "lr must be less than 2^63; got a number of"),
        ("epochs=" + 3000 * "[", "--set epochs: its value is nested too deeply"),
        ("epochs=0", "epochs must be at least 1; got 0"),
        ("lr=0", "lr must be more than 0; got 0.0"),
        ("warmup=2", "warmup is a share, 0 to 1; got 2.0"),
        ("model.dropout=1", "dropout must be at least 0 and below 1; got 1.0"),
        ("precision=fp8", "precision must be one of float32, bfloat16, float16; got 'fp8'"),
        ("betas=0.9", "betas must be an array, such as [0.9, 0.98]; got 0.9"),
        ("betas=[0.9]", "betas must be two numbers from 0 to below 1; got (0.9,)"),
        ("betas=[0.9, 1]", "betas must be two numbers from 0 to below 1; got (0.9, 1.0)"),
        ("betas=[0.9, true]", "each of betas must be a float; got True"),
        ("schedule=step", "milestones go with schedule step"),
        ("milestones=[0.5]", "milestones go with schedule step"),
        ("cache=disk", "cache must be one of none, memory, device; got 'disk'"),
        ("model.hiden=3", "no setting is named 'model.hiden'; did you mean model.hidden"),
        ("model.hidden=big", "model.hidden must be an int; got 'big'"),
        ("model=3", "model must be a table with a name; got 3"),
        ("max_tokens=513", "max_tokens must be at most 512; got 513"),
        ("seed.x=3", "seed must be an int; got {'x': 3}"),
        ("epochs", "--set takes key=value, such as --set epochs=3; got 'epochs'"),
        ("=3", "--set takes key=value"),
    ],
)
def test_wrong_assignments_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(assignment)
    assert message in str(error.value)


def test_noam_needs_a_warm_up() -> None:
    with pytest.raises(UsageError, match="noam falls as the warm-up rose; it needs warmup above 0"):
        settings("schedule=noam", "warmup=0")


def test_broken_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = = 3")
    with pytest.raises(UsageError, match=r"broken\.toml: not a TOML settings file"):
        settings(config=broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"broken\.toml: not a TOML settings file"):
        settings(config=broken)


def test_a_config_is_a_path_or_the_name_of_a_preset(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.touch()
    assert find_config(str(mine), VQA_PRESETS) == mine
    assert find_config("default", VQA_PRESETS) == VQA_PRESETS / "default.toml"
    with pytest.raises(UsageError, match=r"no settings file nowhere; .* one of: default"):
        find_config("nowhere", VQA_PRESETS)


def test_every_preset_says_its_command_and_loads() -> None:
    names = sorted(path.stem for path in VQA_PRESETS.glob("*.toml"))
    assert {"default", "pythia", "mcan_small", "mcan_large", "movie_mcan"} < set(names)
    for name in names:
        path = find_config(name, VQA_PRESETS)
        head = path.read_text()[:900]
        assert name in head
        assert "Expected time: " in head
        assert "Expected score: " in head
        load_settings(VqaSettings, config=path, assignments=[])


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
