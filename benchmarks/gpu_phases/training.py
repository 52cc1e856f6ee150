"""Phases: steps of training by precision, captions and checkpoints, and groups of processes."""

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from clipfeat.train.checkpoint import write_checkpoint
from clipfeat.train.models.decoding import greedy, sample
from clipfeat.train.records import Records
from clipfeat.train.tasks.settings import PRESETS

from .. import decode, steps
from .setting import Setting

IMAGES, SAMPLES, WORDS = 64, 5, 20  # of a batch of self-critical training
ADAM_COPIES = 3  # of each parameter in a checkpoint: itself, and Adam's two moments
SECONDS = timedelta(seconds=60)


def measure_steps(setting: Setting, measured: dict[str, Any]) -> None:
    """ms of a VQA step by precision; of the captions of a self-critical step; of a checkpoint."""
    device = "cuda" if setting.on_gpu else "cpu"
    questions, repeats = (256, 10) if setting.on_gpu else (16, 1)
    presets = ("default", "pythia", "mcan_small") if setting.on_gpu else ("default",)
    parameters = 0
    for name in presets:
        found: dict[str, float] = {"questions": questions}
        measured[name] = found
        for precision in ("bfloat16", "float32") if setting.on_gpu else ("float32",):
            preset = PRESETS / "vqa" / f"{name}.toml"
            pace = steps.measure(preset, precision, device, questions, repeats)
            found[f"{precision}_ms"] = round(pace.milliseconds, 1)
            parameters = max(parameters, pace.parameters)
    measured["scst_captions_ms"] = round(1e3 * caption_seconds(setting), 1)
    tensors = {"all": torch.zeros(ADAM_COPIES * parameters, device=setting.device)}
    started = time.perf_counter()
    write_checkpoint(setting.folder / "checkpoint.safetensors", tensors, {})
    measured["checkpoint_s"] = round(time.perf_counter() - started, 2)
    measured["checkpoint_parameters"] = parameters


@torch.inference_mode()
def caption_seconds(setting: Setting) -> float:
    """Return the time of five sampled captions and the likeliest, of the images of a batch."""
    device = torch.device(setting.device)
    images, words = (IMAGES, WORDS) if setting.on_gpu else (1, 3)
    model = decode.make_model(device)
    cells = decode.ROWS * decode.COLS
    features = torch.rand(images, cells, decode.DIM, device=device)
    mask = torch.ones(images, cells, dtype=torch.bool, device=device)
    shapes = torch.tensor([[decode.ROWS, decode.COLS]] * images, device=device)
    memory = model.encode(Records(features, mask, shapes))
    generator = torch.Generator(device).manual_seed(0)

    def write() -> None:
        sample(model, memory, samples=SAMPLES, generator=generator, max_tokens=words)
        greedy(model, memory, max_tokens=words)

    return setting.seconds(write)


def join_processes(setting: Setting, measured: dict[str, Any]) -> None:
    """NCCL with one process, and two processes of gloo with tensors of the same device."""
    for name, ranks in (("nccl", 1), ("gloo", 2)):
        if name == "nccl" and not setting.on_gpu:
            measured[name] = "skipped: no CUDA"
            continue
        meeting = setting.folder / f"{name}.meeting"
        code = f"from {__name__} import run_group; run_group{(name, ranks, setting.device, str(meeting))}"
        started = time.perf_counter()
        setting.python("-c", code)
        measured[f"{name}_s"] = round(time.perf_counter() - started, 1)


def run_group(backend: str, ranks: int, device: str, meeting: str) -> None:
    """Run a group of processes to its end; raises if one of them fails."""
    spawn(run_rank, (backend, ranks, device, meeting), nprocs=ranks)


def run_rank(rank: int, backend: str, ranks: int, device: str, meeting: str) -> None:
    """Start, broadcast, add up, wait for the others and end, as a training does."""
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=SECONDS
    )
    numbers = torch.full((1000,), float(rank + 1), device=device)
    dist.broadcast(numbers, src=0)
    assert numbers.eq(1).all()
    dist.all_reduce(numbers)
    assert numbers.eq(ranks).all()
    dist.barrier()
    dist.destroy_process_group()
