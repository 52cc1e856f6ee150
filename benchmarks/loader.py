"""Batches for training, ours against torch's Dataset and DataLoader over npz files.

make bench-loader BENCH="--images 512"

A store of 14x14x2048 zstd grids, two thirds zeros, three questions an image, 64 a batch. The
peers read the same grids as float32 from `savez_compressed` files, as the paper's code keeps
them, with as many workers as we have threads: once for every question, which is what a Dataset
does by itself, and once for every image of a batch (a sampler that keeps an image's questions
together). Then: how long a training step waits for data where it takes --step-ms, what memory
an epoch adds, and what four processes share of one index.
"""

import argparse
import multiprocessing as mp
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from clipfeat.base.machine import usable_cores
from clipfeat.featstore import FeatureStore, GridShape, Identity
from clipfeat.featstore.writing.writer import write_store
from clipfeat.train.batches import cut, epoch_order, prefetch
from clipfeat.train.log import LoopTimes
from clipfeat.train.records import RecordReader
from clipfeat.train.tasks.answering import Examples, SoftAnswers, read_batch

from .store.records import Kind, Records, make_records

KIND = Kind("caption", "RN50 caption grids", GridShape(14, 14), 2048, 512)
QUESTIONS, BATCH, ANSWERS, TOKENS = 3, 64, 3129, 14
WORKERS = usable_cores()
CPU = torch.device("cpu")


def write_files(folder: Path, records: Records) -> Path:
    """Write the records as a store and as npz files; return the store's path."""
    identity = Identity(
        {"model": "bench"}, {"name": "bench"}, "float32", "float16", "zstd", KIND.dim, None
    )
    grids = dict(zip(records.ids, records.grids, strict=True))
    (folder / "npz").mkdir()
    for image_id, grid in grids.items():
        np.savez_compressed(folder / "npz" / f"{image_id}.npz", feat=records.unrounded(grid))
    shapes = dict.fromkeys(grids, KIND.shape)
    return write_store(folder / "bench.clipfeat", identity, shapes, grids.get, 128).path


def questions_about(ids: Sequence[str]) -> Examples:
    """Return three questions about every image, with three right answers each."""
    random = np.random.default_rng(0)
    count = QUESTIONS * len(ids)
    return Examples(
        ids=tuple(range(count)),
        image_ids=tuple(ids),
        image_of_text=np.repeat(np.arange(len(ids)), QUESTIONS),
        tokens=random.integers(2, 10_000, (count, TOKENS)),
        targets=SoftAnswers.of(
            [{int(a): 0.9 for a in random.integers(0, ANSWERS, 3)} for _ in range(count)]
        ),
    )


class NpzQuestions(Dataset[Any]):
    """One question at a time, each with its image's file."""

    def __init__(self, folder: Path, examples: Examples) -> None:
        self._folder, self._examples = folder, examples

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        return (self.grid(self._examples.image_of_text[number]), *self.small(number))

    def grid(self, image: int) -> torch.Tensor:
        path = self._folder / f"{self._examples.image_ids[image]}.npz"
        return torch.from_numpy(np.load(path)["feat"])

    def small(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.zeros(ANSWERS)
        targets = self._examples.targets
        assert targets is not None
        own = slice(*targets.first[number : number + 2])
        for answer, score in zip(targets.answers[own], targets.scores[own], strict=True):
            target[answer] = score
        return torch.from_numpy(self._examples.tokens[number]), target


class NpzBatches(NpzQuestions):
    """A batch at a time, each image's file once."""

    def __init__(self, folder: Path, examples: Examples, batches: list[np.ndarray]) -> None:
        super().__init__(folder, examples)
        self._batches = batches

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        numbers = self._batches[number]
        images, image_of_text = np.unique(
            self._examples.image_of_text[numbers], return_inverse=True
        )
        tokens, targets = zip(*map(self.small, numbers.tolist()), strict=True)
        grids = torch.stack([self.grid(image) for image in images])
        return grids, torch.from_numpy(image_of_text), torch.stack(tokens), torch.stack(targets)

    def __len__(self) -> int:
        return len(self._batches)


def rate(batches: Iterator[Any], examples: int) -> float:
    """Return the examples/s of walking over batches."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return examples / (time.perf_counter() - start)


def compare(folder: Path, store: FeatureStore, examples: Examples, rounds: int) -> None:
    """Print examples/s of ours and of the two peers, in turn on the same order."""
    found: dict[str, list[float]] = {}
    reader = RecordReader(store, CPU)
    for epoch in range(rounds):
        order = epoch_order(examples.image_of_text, seed=0, epoch=epoch)
        batches = cut(order, BATCH)
        few = order[: len(order) // QUESTIONS]  # the slowest peer takes a third of an epoch
        singles = NpzQuestions(folder / "npz", examples)
        grouped = NpzBatches(folder / "npz", examples, batches)
        peers = {
            "npz, a file a question": (
                DataLoader(singles, BATCH, sampler=few.tolist(), num_workers=WORKERS),
                len(few),
            ),
            "npz, a file an image of the batch": (
                DataLoader(grouped, None, num_workers=WORKERS),
                len(order),
            ),
        }
        read = prefetch(batches, lambda b: read_batch(reader, examples, b, answers=ANSWERS))
        found.setdefault("ours", []).append(rate(read, len(order)))
        for name, (loader, count) in peers.items():
            found.setdefault(name, []).append(rate(iter(loader), count))
    ours = float(np.median(found["ours"]))
    print(f"examples/s, batches of {BATCH}, {WORKERS} workers, median of {rounds}")
    for name, rates in found.items():
        median = float(np.median(rates))
        print(f"  {name:<36}{median:10,.0f}   ours is {ours / median:5.1f} times as fast")


def waiting(store: FeatureStore, examples: Examples, step_ms: float) -> None:
    """Print the share of time that steps of a given length wait for their batch."""
    orders = [epoch_order(examples.image_of_text, seed=0, epoch=epoch) for epoch in range(8)]
    batches = cut(np.concatenate(orders), BATCH)  # as long as an epoch of a larger store
    reader = RecordReader(store, CPU)
    times = LoopTimes()
    times.start()
    read = prefetch(batches, lambda b: read_batch(reader, examples, b, answers=ANSWERS))
    for _ in times.watched(read):
        time.sleep(step_ms / 1e3)  # a GPU computes: the cores are free
    print(f"steps of {step_ms:g} ms: {times.waited_percent:.2f} % of the time waited for data")


def memory(store: FeatureStore, examples: Examples, epochs: int) -> None:
    """Print the resident memory after each epoch."""
    reader, process, sizes = RecordReader(store, CPU), psutil.Process(), []
    for epoch in range(epochs):
        batches = cut(epoch_order(examples.image_of_text, seed=0, epoch=epoch), BATCH)
        rate(prefetch(batches, lambda b: read_batch(reader, examples, b, answers=ANSWERS)), 0)
        sizes.append(process.memory_info().rss / 1e6)
    print(f"resident MB after each epoch: {', '.join(f'{size:.0f}' for size in sizes)}")


def _share(path: Path, ready: Any, done: Any) -> None:
    store = FeatureStore.open(path)
    store.statuses([f"{n:06}" for n in range(10_000)])
    ready.release()
    done.wait()


def sharing(path: Path) -> None:
    """Print what of the lookup four processes hold together."""
    context = mp.get_context("spawn")
    ready, done = context.Semaphore(0), context.Event()
    children = [context.Process(target=_share, args=(path, ready, done)) for _ in range(4)]
    for child in children:
        child.start()
    for _ in children:
        ready.acquire()
    maps = [
        entry
        for child in children
        for entry in psutil.Process(child.pid).memory_maps(grouped=False)
        if "lookup" in entry.path
    ]
    resident, proportional = (sum(getattr(m, kind) for m in maps) for kind in ("rss", "pss"))
    size = FeatureStore.open(path).table_path("lookup").stat().st_size
    print(
        f"index of {size:,} bytes: {len(maps)} processes map {resident:,} bytes of it, "
        f"{proportional:,} in memory"
    )
    done.set()
    for child in children:
        child.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=KIND.count)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step-ms", type=float, nargs="+", default=[40, 60, 80])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        records = make_records(KIND, arguments.images)
        store = FeatureStore.open(write_files(folder, records))
        examples = questions_about(records.ids)
        del records
        compare(folder, store, examples, arguments.rounds)
        for step_ms in arguments.step_ms:
            waiting(store, examples, step_ms)
        memory(store, examples, epochs=6)
        sharing(store.path)


if __name__ == "__main__":
    main()
