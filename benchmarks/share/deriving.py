"""Phases about smaller stores: what each derivation saves, takes and loses."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clipfeat.featstore import FeatureStore, GridShape, convert, pool
from clipfeat.featstore.deriving.numbers import as_stored
from clipfeat.featstore.deriving.pool import adaptive_average
from clipfeat.featstore.shards import as_bytes, encode

from ..pretraining import clipfeat, gain, sets
from .made import Setting

Derive = Callable[[FeatureStore, Path], FeatureStore]
SEEDS = (0, 1, 2)


def _pool_half(store: FeatureStore, out: Path) -> FeatureStore:
    """Pool to half as many rows and columns as the largest grid has."""
    largest = max(store.grid_shapes, key=lambda shape: shape.cells)
    return pool(store, out, GridShape(-(-largest.rows // 2), -(-largest.cols // 2)))


DERIVATIONS: Mapping[str, Derive] = {
    "mantissa-7": partial(convert, mantissa_bits=7),
    "uint8": partial(convert, dtype="uint8"),
    "pooled": _pool_half,
}


def deriving(setting: Setting) -> None:
    """Size, rates and loss of each derivation."""
    source = setting.write("few.clipfeat", setting.scenes[: setting.records])
    grids = [source[name] for name in source.ids]
    size, derived = _size(source), setting.new("derived")
    print(
        f"derive: {len(source)} records; MB/s of the source's float16, encode and decode on a thread"
    )
    print("  store          size   encode   decode  command   1 - cosine  relative L2")
    _print_row("as extracted", source, grids, size, None)
    for name, derive in DERIVATIONS.items():
        start = time.perf_counter()
        store = derive(source, derived / f"{name}.clipfeat")
        _print_row(name, store, grids, size, time.perf_counter() - start)


def _print_row(
    name: str,
    store: FeatureStore,
    grids: Sequence[np.ndarray],
    source_size: int,
    command: float | None,  # seconds
) -> None:
    megabytes = sum(grid.nbytes for grid in grids) / 1e6
    rates = [
        megabytes / _seconds(act) for act in (partial(_encode, store, grids), partial(_read, store))
    ]
    rates += [] if command is None else [megabytes / command]
    shown = "".join(f"{rate:9.0f}" for rate in rates)
    loss = store.metadata.loss
    lost = "" if loss is None else f"{loss.cosine_distance:13.2g}{loss.relative_l2:13.2g}"
    print(f"  {name:<12}{_size(store) / source_size:7.3f}{shown}{lost}", flush=True)


def _size(store: FeatureStore) -> int:
    return sum(shard.bytes for shard in store.shards)


def _seconds(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _encode(store: FeatureStore, grids: Sequence[np.ndarray]) -> None:
    """Encode grids of the source as the derivation does; nothing is written."""
    identity, shape = store.identity, store.grid_shapes[0]
    array = identity.array("grid", shape)
    for grid in grids:
        values = grid if grid.shape[:2] == shape else adaptive_average(grid, shape)
        stored = array.as_stored(as_stored(values, identity, store.scale))
        encode(identity.codec, as_bytes(stored))


def _read(store: FeatureStore) -> None:
    for name in store.ids:
        store[name]


def answering(setting: Setting) -> None:
    """What each derivation changes in VQA accuracy on the demo's store, over three seeds."""
    demo = setting.demo
    source = FeatureStore.open(demo / "scenes.clipfeat")
    folder = demo / "derived"
    folder.mkdir(exist_ok=True)
    print(f"vqa: accuracy on {source.location}, {len(SEEDS)} seeds")
    print("| store | as extracted | derived | difference [95 %, over images] | by seed |")
    print("|---|---|---|---|---|")
    reference = [_train(demo, source.path, seed) for seed in SEEDS]
    for name, derive in DERIVATIONS.items():
        path = folder / f"{name}.clipfeat"
        if not (path / "store.json").exists():
            derive(source, path)
        print(gain(name, [_train(demo, path, seed) for seed in SEEDS], reference), flush=True)


def _train(demo: Path, store: Path, seed: int) -> Path:
    """Return the run folder of a training on a store; a finished run is not trained again."""
    run = demo / "derived" / f"vqa-{store.stem}-{seed}"
    if not (run / "result.json").is_file():
        paths = ("--store", store, "--data", demo / "data" / "vqa", "--out", run)
        clipfeat("train", "vqa", *paths, *sets(seed=seed), "--device", "cpu")
    return run
