"""`clipfeat train TASK --settings` and the presets in its help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfeat.train.preset_text import settings_text
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.settings import NAV_PRESETS, NavigationSettings
from clipfeat.train.tasks.settings import (
    CAPTION_PRESETS,
    PRETRAIN_PRESETS,
    VE_PRESETS,
    VQA_PRESETS,
    CaptionSettings,
    PretrainSettings,
    VeSettings,
    VqaSettings,
)

Typed = Callable[..., tuple[int, str, str]]
TASKS: dict[Path, type[Any]] = {
    VQA_PRESETS: VqaSettings,
    VE_PRESETS: VeSettings,
    CAPTION_PRESETS: CaptionSettings,
    PRETRAIN_PRESETS: PretrainSettings,
    NAV_PRESETS: NavigationSettings,
}


def load(presets: Path, config: Path | None, *sets: str) -> Any:
    return load_settings(TASKS[presets], config=config, assignments=sets)


@pytest.mark.parametrize("presets", TASKS, ids=lambda path: path.name)
def test_the_text_is_read_to_the_same_settings(presets: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for config in (None, *presets.glob("*.toml")):
        settings = load(presets, config, "lr=0.25", 'train_split="é # \\"x\\""')
        path.write_text(settings_text(settings, config, presets), encoding="utf-8")
        assert load(presets, path) == settings


def test_comments_are_those_of_the_value(tmp_path: Path) -> None:
    pythia = VQA_PRESETS / "pythia.toml"
    lines = settings_text(load(VQA_PRESETS, pythia, "warmup=0.5"), pythia, VQA_PRESETS).splitlines()
    assert lines[0] == pythia.read_text().partition("\n")[0]
    assert 'answer_split = "train+val"  # 3,129 classes' in lines
    assert (
        "warmup = 0.5              # share of all updates during which the rate rises to lr"
        in lines
    )
    # "hidden" means something else in UpDn, whose file has the general comments.
    model = lines[lines.index("[model]") + 1 :]
    assert model[0] == 'name = "pythia"'
    assert not any("of a cell and of their fusion" in line for line in model)
    own = tmp_path / "own.toml"
    own.write_text("lr = 1.0 # my rate\n[model]\nhidden = 8 # small\n")
    lines = settings_text(load(VQA_PRESETS, own), own, VQA_PRESETS).splitlines()
    assert {"lr = 1.0                  # my rate", "hidden = 8                # small"} < set(lines)


def test_settings_are_printed_as_typed_without_any_input(typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("train", "ve", "linear_probe", "--settings", "--set", "seed=7")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out)
    assert load(VE_PRESETS, tmp_path / "mine.toml") == load(
        VE_PRESETS, VE_PRESETS / "linear_probe.toml", "seed=7"
    )
    code, out, err = typed("train", "pretrain", "--settings", "--out", tmp_path / "run")
    assert (code, err, (tmp_path / "run").exists()) == (0, "", False)
    assert "clipfeat train pretrain stage1" in out
    code, _, err = typed("train", "caption", "--settings", "--set", "seeds=7")
    assert (code, "did you mean seed" in err) == (2, True)
    code, _, err = typed("train", "caption", "--data", "d", "--out", "o")
    assert (code, "Missing option '--store'" in err) == (2, True)


def test_help_lists_the_presets(typed: Typed) -> None:
    for presets in TASKS:
        code, out, _ = typed("train", presets.name, "--help")
        assert code == 0
        for path in presets.glob("*.toml"):
            assert f"\n  {path.stem} " in out
        assert f"clipfeat train {presets.name} CONFIG --settings" in out
