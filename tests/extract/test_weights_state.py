"""Checkpoints of training scripts: where the state dict is, and what its names begin with."""

import argparse
import collections
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from torch import nn

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.weights_file import UnreadableWeights
from clipfeat.extract.backbones.weights_state import read_weights

STATE = {"visual.a": torch.arange(3.0), "text.b": torch.ones(2, 2)}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "w.pt")
    return folder / "w.pt"


def prefixed(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def same(found: Any, expected: Any = STATE) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net", None])
@pytest.mark.parametrize(
    "prefix",
    ["", *("".join(p) for n in (1, 2, 3) for p in itertools.permutations(
        ("module.", "_orig_mod.", "model.", "clip."), n))],
)  # fmt: skip
def test_every_key_and_prefix_gives_the_tensors(
    tmp_path: Path, key: str | None, prefix: str
) -> None:
    state = prefixed(prefix)
    path = saved(tmp_path, {"epoch": 3, key: state} if key else state)
    assert same(read_weights(path).tensors)


def test_a_mix_of_prefixes_and_of_keys(tmp_path: Path) -> None:
    state = {"module.visual.a": STATE["visual.a"], "_orig_mod.text.b": STATE["text.b"]}
    path = saved(tmp_path, {"model": {"state_dict": state, "step": 7}})
    assert same(read_weights(path).tensors)
    path = saved(tmp_path, {"model": prefixed("module.") | STATE})
    with pytest.raises(UnreadableWeights, match="twice"):
        read_weights(path)


class Settings(dict[str, Any]):
    """As training scripts have them: a dict whose items are attributes too."""


def test_objects_beside_the_tensors_are_ignored(tmp_path: Path) -> None:
    """Arguments, numpy's numbers, paths, and an optimizer with its own tensors."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("logs"), kind=dict),
        "settings": Settings(lr=0.1, steps=[1, 2]),
        "best": np.float64(0.7),
        "history": np.ones(3),
        "counts": collections.defaultdict(list, a=[1]),
        "recent": collections.deque([1, 2]),
        "random": torch.get_rng_state(),
        "names": {"a", "b"},
        "state_dict": model.state_dict() | {"extra": argparse.Namespace()},
    }
    path = saved(tmp_path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_weights(path).tensors, model.state_dict())


def test_a_module_that_was_saved_whole_gives_its_state_dict(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    model.register_buffer("passing", torch.ones(2), persistent=False)
    for content in (model, {"model": nn.DataParallel(model), "epoch": 3}):
        assert same(read_weights(saved(tmp_path, content)).tensors, model.state_dict())


@pytest.mark.parametrize(
    ("key", "average"),
    [
        ("state_dict_ema", AVERAGE),
        ("model_ema", prefixed("module.", AVERAGE)),
        ("ema", {"state_dict": AVERAGE, "decay": 0.999}),
        ("ema_state_dict", prefixed("module.", AVERAGE) | {"n_averaged": torch.tensor(3)}),
    ],
)
def test_averaged_weights_are_used_on_request(
    tmp_path: Path, key: str, average: dict[str, Any]
) -> None:
    path = saved(tmp_path, {"state_dict": STATE, key: average})
    found, warning = read_weights(path)
    assert same(found)
    assert key in (warning or "")
    assert "--ema" in (warning or "")
    found, warning = read_weights(path, averaged=True)
    found.pop("n_averaged", None)
    assert same(found, AVERAGE)
    assert warning is None


def test_averaged_weights_that_are_not_there_or_alone(tmp_path: Path) -> None:
    with refuses("E-WEIGHTS-AVERAGE", "drop --ema", kind=ExtractUsageError):
        read_weights(saved(tmp_path, {"state_dict": STATE}), averaged=True)
    with refuses("E-WEIGHTS-AVERAGE", "add --ema", kind=ExtractUsageError):
        read_weights(saved(tmp_path, {"model_ema": AVERAGE}))
