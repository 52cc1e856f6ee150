"""The shared loop: parts of a batch, errors, precision, what is no run to go on with."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from children import command_line
from logged import logged
from refused import refuses
from rows import Row, RowTask
from vqa_world import FAST, make_world

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train import fit, log
from clipfeat.train.batches import epoch_order
from clipfeat.train.checkpoint import read_checkpoint, write_checkpoint
from clipfeat.train.devices import accelerator_of_trained, accelerator_on
from clipfeat.train.engine import train
from clipfeat.train.settings import LoopSettings, load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("examples_per_s", "data_wait")}
        for line in lines
    ]


def run_here(world: tuple[Path, Path], out: Path, *changes: str) -> dict[str, Any]:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *changes])
    return fit(VqaTask(settings, store=world[0], data=world[1], device="cpu"), out)[0]


def test_a_batch_in_parts_has_the_loss_of_the_whole(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    losses = []
    for parts in (1, 3):
        run = tmp_path / str(parts)
        run_here(
            world,
            run,
            "epochs=1",
            "model.dropout=0",
            f"gradient_accumulation_steps={parts}",
            "batch_size=10",
        )
        losses.append([line["loss"] for line in metrics(run) if "loss" in line])
    assert len(losses[0]) == 8  # 72 questions: seven batches of 10 and one of 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_without_a_terminal_logs_how_far_it_is(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logged() as quick:
        run_here(world, tmp_path / "quick", "epochs=1", "batch_size=10")
    assert not any("update" in line for line in quick)
    monkeypatch.setattr(log, "LOG_SECONDS", -1.0)
    with logged() as lines:
        run_here(world, tmp_path / "run", "epochs=2", "batch_size=10", "log_every=5")
    updates = [line.split(", ")[:2] for line in lines if "update" in line]
    assert updates == [
        ["epoch 1 of 2", "update 5 of 16"],
        ["epoch 1 of 2", "update 8 of 16"],
        ["epoch 2 of 2", "update 10 of 16"],
        ["epoch 2 of 2", "update 15 of 16"],
        ["epoch 2 of 2", "update 16 of 16"],
    ]
    assert "best score" in lines[-1]


def test_a_loss_that_is_no_number_stops_the_run(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with refuses("E-RUN-LOSS", "bad_batch.safetensors"):
        run_here(world, run, "lr=1e30", "log_every=4", "checkpoint_every=3")
    assert not (run / "last.safetensors").exists()
    tensors, state = read_checkpoint(run / "bad_batch.safetensors")
    assert state["loss"] in ("nan", "inf")
    assert 1 < state["update"] <= 3
    order = epoch_order(np.repeat(np.arange(24), 3), seed=0, epoch=0)
    assert state["examples"] == order[16 * (state["update"] - 1) :][:16].tolist()
    assert tensors["tokens"].shape[0] == tensors["targets"].shape[0] == 16
    assert tensors["features"].dtype == torch.float16


def test_a_checkpoint_in_mid_epoch_is_never_of_a_bad_loss(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with refuses("E-RUN-LOSS"):
        run_here(world, run, "lr=1e30", "log_every=1000", "checkpoint_every=1")
    tensors, state = read_checkpoint(run / "last.safetensors")
    assert state["step"] == 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_another_run_is_not_continued(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_here(world, run, "epochs=1")
    before = (run / "settings.json").read_bytes()
    with refuses("E-RUN-DIFFERS", "epochs 1, not 2; lr 0.01, not 0.02", kind=UsageError):
        run_here(world, run, "epochs=2", "lr=0.02")
    other = make_world(tmp_path / "other", train=25)
    with refuses("E-RUN-DIFFERS", "store_digest", "v2_OpenEnded", kind=UsageError):
        run_here(other, run, "epochs=1")
    assert (run / "settings.json").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with refuses("E-RUN-FOLDER", "full", kind=UsageError):
        run_here(world, tmp_path / "full")


def test_a_finished_run_is_not_trained_again(world: tuple[Path, Path], tmp_path: Path) -> None:
    first = run_here(world, tmp_path / "run", "epochs=1")
    last = tmp_path / "run" / "last.safetensors"
    written = last.stat()
    assert (
        run_here(
            world, tmp_path / "run", "epochs=1", "gradient_accumulation_steps=2", "cache=memory"
        )
        == first
    )
    untouched = last.stat()  # the same file, not written since (reading it may move its atime)
    assert (untouched.st_ino, untouched.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_half_precision_trains_too(world: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_here(world, tmp_path / "run", "epochs=1", "precision=bfloat16")
    tensors, _ = read_checkpoint(tmp_path / "run" / "best.safetensors")
    assert result["n"] == 27
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"a": torch.ones(3)}, {"step": 4})
    tensors, state = read_checkpoint(path)
    assert (tensors["a"].tolist(), state) == ([1, 1, 1], {"step": 4})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ClipfeatError, match=r"last\.safetensors: not a readable checkpoint"):
        read_checkpoint(path)


def test_a_checkpoint_of_another_model_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_here(world, run, "epochs=1")
    tensors, state = read_checkpoint(run / "last.safetensors")
    write_checkpoint(run / "last.safetensors", {**tensors, "model.extra": torch.ones(1)}, state)
    with refuses("E-RUN-MODEL", "extra"):
        run_here(world, run, "epochs=1")
    del tensors["optimizer.attention.weight.exp_avg"]
    write_checkpoint(run / "last.safetensors", tensors, state)
    with refuses("E-RUN-RESUME", "'exp_avg'"):
        run_here(world, run, "epochs=1")
    weights = {name: t for name, t in tensors.items() if not name.startswith("optimizer.")}
    write_checkpoint(run / "last.safetensors", weights, state)
    with refuses("E-RUN-RESUME", "the state of 0 of "):
        run_here(world, run, "epochs=1")


def test_a_checkpoint_of_other_groups_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_here(world, run, "epochs=1")
    tensors, state = read_checkpoint(run / "last.safetensors")
    assert [group["weight_decay"] for group in state["groups"]] == [0.0, 0.01]
    state["groups"][0]["weight_decay"] = 0.01  # as if embeddings and biases had decayed
    write_checkpoint(run / "last.safetensors", tensors, state)
    with refuses("E-RUN-RESUME", "its groups of parameters are"):
        run_here(world, run, "epochs=1")


def test_layers_are_required_before_the_run_is_made(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    with refuses("E-SETTINGS-LAYERS", "UpDn", kind=UsageError):
        run_here(world, tmp_path / "run", "layer_decay=0.9")
    assert not (tmp_path / "run").exists()


def test_what_changes_no_number_may_change(world: tuple[Path, Path], tmp_path: Path) -> None:
    runs = {"plain": (), "cached": ("cache=memory",), "parts": ("checkpoint_every=1",)}
    results = {}
    for name, changes in runs.items():
        result = run_here(world, tmp_path / name, "epochs=2", *changes)
        results[name] = (metrics(tmp_path / name), result["overall"])
    assert results["plain"] == results["cached"] == results["parts"]
    run_here(world, tmp_path / "plain", "epochs=2", "cache=memory", "log_every=3")


@pytest.mark.parametrize(
    "changes",
    [
        ("optimizer=adamax",),
        ("clip_norm=0",),
        ("clip_norm=0", "clip_value=100.0", "eps=10.0"),
        ("eps=1e-9",),
    ],
)
def test_an_update_is_that_of_torchs_own_optimizer(
    world: tuple[Path, Path], tmp_path: Path, changes: tuple[str, ...]
) -> None:
    """One update by the loop, and one by torch's optimizer on the same batch."""
    settings = load_settings(
        VqaSettings, config=None, assignments=[*FAST, "model.dropout=0", *changes]
    )
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False)
    twin = copy.deepcopy(model)
    batch = Row(torch.randn(3, 4))
    one_update = dataclasses.replace(settings, updates=1, warmup=0.0, schedule="constant")
    train(RowTask(one_update, model, batch, lambda output: output.square().mean() * 100), tmp_path)
    kinds = {"adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}
    optimizer = kinds[settings.optimizer](
        twin.parameters(), lr=settings.lr, eps=settings.eps, weight_decay=settings.weight_decay
    )
    (twin(batch.row).square().mean() * 100).backward()
    if settings.clip_norm:
        torch.nn.utils.clip_grad_norm_(twin.parameters(), settings.clip_norm)
    if settings.clip_value:
        assert twin.weight.grad is not None
        assert (twin.weight.grad.abs() > settings.clip_value).tolist() == [
            [True, False, True, True]
        ]
        torch.nn.utils.clip_grad_value_(twin.parameters(), settings.clip_value)
    optimizer.step()
    assert torch.equal(model.weight, twin.weight)


def test_out_of_memory_names_the_setting(tmp_path: Path) -> None:
    settings = LoopSettings(gradient_accumulation_steps=2, epochs=1)

    def greedy(output: torch.Tensor) -> torch.Tensor:
        return output.sum() + torch.empty(1 << 60).sum()

    with refuses("E-RUN-MEMORY", "--set gradient_accumulation_steps=4"):
        train(RowTask(settings, torch.nn.Linear(4, 1), Row(torch.randn(3, 4)), greedy), tmp_path)


def train_tiny(run: Path, settings: LoopSettings, compute: Callable[[torch.Tensor], Any]) -> None:
    model, batch = torch.nn.Linear(4, 4), Row(torch.randn(4, 4))
    train(RowTask(settings, model, batch, lambda output: compute(output).sum()), run)


def test_what_a_library_cannot_compute_in_a_precision_is_one_line(tmp_path: Path) -> None:
    """torch has no determinant of bfloat16; of a bug in float32 its traceback says more."""

    def determinant(rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(rows.bfloat16())

    with pytest.raises(ClipfeatError) as refused:
        train_tiny(tmp_path, LoopSettings(precision="bfloat16"), determinant)
    assert refused.value.code == "E-PRECISION-KERNEL"
    assert str(refused.value).endswith("; type --set precision=float32")
    assert "\n" not in str(refused.value)
    with pytest.raises(NotImplementedError, match="BFloat16"):
        train_tiny(tmp_path, LoopSettings(), determinant)


@pytest.mark.parametrize(("native", "better"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_that_is_named_instead_is_one_that_the_processor_is_fast_in(
    native: bool,  # noqa: FBT001
    better: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = 0.5 if native else 20.0
    monkeypatch.setattr("clipfeat.train.devices.slower_than_float32", lambda _: times)
    with pytest.raises(UsageError) as refused:
        accelerator_on("cpu", LoopSettings(precision="float16"))
    assert refused.value.code == "E-PRECISION-DEVICE"
    assert str(refused.value).endswith(f"type --set precision={better}")
    accelerator_on("cpu", LoopSettings(precision="bfloat16"))
    assert ("type --set precision=float32" in capsys.readouterr().err) == (not native)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_trained_model_is_used_in_float32_where_its_precision_is_slow(
    precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can set the precision of a run that was trained elsewhere."""
    monkeypatch.setattr("clipfeat.train.devices.slower_than_float32", lambda _: 20.0)
    accelerator = accelerator_of_trained("cpu", LoopSettings(precision=precision))
    layer = accelerator.prepare_model(torch.nn.Linear(2, 2), evaluation_mode=True)
    assert layer(torch.ones(1, 2)).dtype == torch.float32
    with accelerator.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    said = capsys.readouterr().err
    assert f"trained in {precision}" in said
    assert "--set" not in said


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, *, major: int, minor: int) -> list[str]:
    """Let torch believe in a GPU; return the precisions of the accelerators that are made for it."""
    precisions: list[str] = []

    def accelerator(**given: Any) -> Accelerator:
        precisions.append(given["mixed_precision"])
        return Accelerator.__new__(Accelerator)

    properties = SimpleNamespace(major=major, minor=minor)
    for name, value in (
        ("is_available", True),
        ("current_device", 0),
        ("get_device_properties", properties),
        ("_check_bf16_tensor_supported", True),
    ):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, value=value: value)
    monkeypatch.setattr("clipfeat.train.devices.Accelerator", accelerator)
    return precisions


@pytest.mark.parametrize(("major", "minor", "told"), [(7, 0, True), (7, 5, True), (8, 0, False)])
def test_a_gpu_that_only_emulates_bfloat16_is_told_of(
    major: int,
    minor: int,
    told: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """V100 and T4 compute it in float32, without a word of torch's; A100 has it."""
    pretend_gpu(monkeypatch, major=major, minor=minor)
    accelerator_on(None, LoopSettings(precision="bfloat16"))
    err = capsys.readouterr().err
    assert ("this GPU only emulates bfloat16" in err) == told
    assert ("type --set precision=float16" in err) == told


@pytest.mark.parametrize(
    ("major", "minor", "mixed"), [(7, 0, "no"), (7, 5, "no"), (8, 0, "bf16"), (9, 0, "bf16")]
)
def test_the_precision_of_auto_is_bfloat16_where_the_gpu_has_it(
    major: int,
    minor: int,
    mixed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NVIDIA's GPUs have it from compute capability 8.0 on; a CPU computes in float32."""
    precisions = pretend_gpu(monkeypatch, major=major, minor=minor)
    accelerator_on(None, LoopSettings())
    accelerator_of_trained(None, LoopSettings())
    accelerator_on("cpu", LoopSettings())
    assert precisions == [mixed, mixed, "no"]
    assert capsys.readouterr().err == ""


def test_a_run_keeps_the_precision_that_it_began_with(
    world: tuple[Path, Path], tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run"

    def command(*changes: str) -> list[str]:
        return command_line(world, run, *changes)[3:]

    assert typed(*command("updates=2", "precision=bfloat16"))[0] == 0
    settings = (run / "settings.json").read_bytes()
    assert (
        typed(*command("updates=2"))[0] == 0
    )  # "auto", which is float32 on this CPU for a new run
    assert (run / "settings.json").read_bytes() == settings
    with refuses("E-RUN-PRECISION", "trained in bfloat16", "computes in float32", kind=UsageError):
        run_here(world, run, "updates=2")  # a task whose accelerator was made before
    run_here(world, tmp_path / "new", "updates=2")
    recorded = json.loads((tmp_path / "new" / "settings.json").read_text())["settings"]
    assert recorded["precision"] == "float32"


def test_a_model_too_large_for_memory_is_said_before_the_run_is_made(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    with refuses("E-RUN-MEMORY", "model.hidden"):
        run_here(world, tmp_path / "run", "model.hidden=16777216")
    assert not (tmp_path / "run").exists()


def test_the_callers_random_numbers_stay(world: tuple[Path, Path], tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run_here(world, tmp_path / "run", "epochs=1")
    assert torch.equal(torch.get_rng_state(), before)
