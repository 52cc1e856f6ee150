"""The presets of navigation and the rules of their settings."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.models.navigation_settings import EnvDropSettings
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.settings import (
    NAV_PRESETS,
    NavigationSettings,
    read_stages,
    split_names,
)


def preset(name: str) -> NavigationSettings:
    return load_settings(NavigationSettings, config=NAV_PRESETS / f"{name}.toml", assignments=[])


def test_r2r_lists_every_setting_at_its_default() -> None:
    listed = tomllib.loads((NAV_PRESETS / "r2r.toml").read_text())
    defaults = json.loads(json.dumps(dataclasses.asdict(NavigationSettings())))
    for table in ("speaker", "back_translation"):
        del defaults[table]["name"]
    assert listed == defaults


def test_the_presets_have_the_numbers_of_the_published_code() -> None:
    r2r, rxr = preset("r2r"), preset("rxr")
    assert (r2r.optimizer, r2r.lr, r2r.clip_norm, r2r.schedule) == ("rmsprop", 1e-4, 40, "constant")
    assert (r2r.updates, r2r.batch_size, r2r.max_actions, r2r.max_tokens) == (80_000, 128, 35, 80)
    assert (r2r.teacher_weight, r2r.discount, r2r.entropy) == (0.2, 0.9, 0.01)
    assert (r2r.teacher, r2r.reward, r2r.norm) == ("shortest", "distance", "none")
    assert r2r.model == EnvDropSettings(
        word=256, hidden=512, action=64, angle_repeats=32, dropout=0.5, feature_dropout=0.3
    )
    assert (rxr.updates, rxr.max_tokens, rxr.teacher_weight) == (200_000, 160, 0.4)
    assert (rxr.model, rxr.batch_size, rxr.lr) == (r2r.model, r2r.batch_size, r2r.lr)


@pytest.mark.parametrize("path", sorted(NAV_PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_preset_says_its_command_time_and_score(path: Path) -> None:
    head = path.read_text()[:900]
    assert f"clipfeat train nav {path.stem} " in head
    assert "Expected time: " in head
    assert "Expected score: " in head
    load_settings(NavigationSettings, config=path, assignments=[])


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("max_tokens=2", "E-SETTINGS-RANGE"),
        ("max_tokens=513", "E-SETTINGS-RANGE"),
        ("max_actions=0", "E-SETTINGS-RANGE"),
        ("discount=1.1", "E-SETTINGS-RANGE"),
        ("entropy=-1", "E-SETTINGS-RANGE"),
        ("metric=ne", "E-SETTINGS-CHOICE"),
        ("teacher=walker", "E-SETTINGS-CHOICE"),
        ("reward=spl", "E-SETTINGS-CHOICE"),
        ("select_split=test", "E-SETTINGS-CHOICE"),
        ("eval_split=+", "E-SETTINGS-CHOICE"),
        ("model=duet", "E-SETTINGS-CHOICE"),
        ("model.hidden=7", "E-SETTINGS-HIDDEN"),
        ("model.dropout=1", "E-SETTINGS-RANGE"),
        ("graphs=https://x.org/graphs", "E-PATH-URL"),
    ],
)
def test_wrong_settings_are_refused(assignment: str, code: str) -> None:
    with refuses(code, assignment.partition("=")[0].partition(".")[2], kind=UsageError):
        load_settings(NavigationSettings, config=None, assignments=[assignment])


def test_stages_and_splits_are_read_in_order() -> None:
    assert read_stages("speaker,follower") == ("follower", "speaker")
    with refuses("E-NAV-STAGE", "'teacher'", kind=UsageError):
        read_stages("teacher")
    assert split_names("val_seen+val_unseen+val_seen") == ("val_seen", "val_unseen")
    assert split_names("") == ()
