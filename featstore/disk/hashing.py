"""Hash a store's files in parallel, with a progress bar in bytes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ...base.files import oddity, sha256_file
from ..format import ShardRow
from ..threads import thread_count


def check_files(
    store: Path, shards: Sequence[ShardRow], label: str
) -> Iterator[tuple[ShardRow, str | None]]:
    """Yield each shard with what is wrong with its file, None if it is the one that was written."""
    with (
        tqdm(
            total=sum(shard.bytes for shard in shards),
            unit="B",
            unit_scale=True,
            desc=label,
            disable=None if shards else True,
        ) as bar,
        ThreadPoolExecutor(thread_count()) as threads,
    ):
        for shard, problem in zip(
            shards, threads.map(lambda shard: _check(store, shard), shards), strict=True
        ):
            bar.update(shard.bytes)
            yield shard, problem


def size_problem(store: Path, shard: ShardRow) -> str | None:
    """Return what is wrong with a shard's file without reading it."""
    path = store / shard.path
    odd = oddity(path)
    if odd:
        return odd
    if not path.exists():
        return "the file is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes; the packing list says {shard.bytes}"
    return None


def _check(store: Path, shard: ShardRow) -> str | None:
    problem = size_problem(store, shard)
    if problem:
        return problem
    digest = sha256_file(store / shard.path)
    return None if digest == shard.sha256 else f"sha256 is {digest}; expected {shard.sha256}"
