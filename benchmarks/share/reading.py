"""Phases without training: copying a store, random reads, opening a large store."""

import asyncio
import hashlib
import multiprocessing as mp
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import urllib3
import zarr.api.asynchronous
from zarr.storage import FsspecStore

from clipfeat.featstore import FeatureStore, Status
from clipfeat.featstore.layout import STORE_JSON, table_file
from clipfeat.featstore.shards import decode_index, decode_record, index_bytes
from clipfeat.featstore.sharing.pull import pull

from ..lookup import image_id, write_tables
from .made import DIM, SHAPE, Setting
from .servers import Server, serving, slow_link

STREAMS = 8  # that `store pull` uses
IN_FLIGHT = 32
READS = 128  # records of a round
BARE, ZARR = "urllib3 and decoding", "zarr-python, fsspec"

Way = Callable[[int], object]  # takes the number of the round


def take_turns(
    ways: Mapping[str, Way],
    rounds: int,
    clock: Callable[[], float],
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Return the median of what each way takes by a clock; each round begins with another way.

    `prepare` is called before each turn and does not count.
    """
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            prepare()
            start = clock()
            ways[name](number)
            taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def copying(setting: Setting) -> None:
    """`store pull` against curl of the same bytes, each until they are on the disk."""
    store = setting.store
    tables = (table_file(table, store.metadata.generation) for table in ("index", "shards"))
    names = [STORE_JSON, *tables, *(shard.path for shard in store.shards)]
    size = sum((store.path / name).stat().st_size for name in names)
    with serving(setting.web, setting.new("scratch")) as server:
        url, copy = f"{server.url}/{store.path.name}", setting.folder / "copy"

        def pull_all(_: int) -> None:
            pull(url, copy / store.path.name)

        ways: dict[str, Way] = {"store pull": pull_all}
        for streams in (1, STREAMS):
            for hashes in (False, True):
                name = f"curl, {streams} at a time{', then sha256sum' if hashes else ''}"
                ways[name] = partial(_curl, url, names, copy, streams=streams, hashes=hashes)
        seconds = take_turns(
            ways, setting.rounds, time.perf_counter, prepare=lambda: setting.new("copy")
        )
    print(f"pull: {size / 1e9:.2f} GB in {len(names)} files over {server.name} to the disk")
    for name, taken in seconds.items():
        ratio = taken / seconds["store pull"]
        shown = "" if name == "store pull" else f"   pull is {ratio:.2f} times as fast (aim: 0.7)"
        print(f"  {name:<36}{size / taken / 1e6:8,.0f} MB/s{shown}")


def _curl(
    url: str, names: Sequence[str], folder: Path, _: int, *, streams: int, hashes: bool
) -> None:
    """Copy files with curl, `streams` at a time, and hash the copies if asked."""
    config = folder / "curl.conf"
    lines = [f'url = "{url}/{name}"\noutput = "{folder / name}"\n' for name in names]
    config.write_text("".join(lines))
    options = ["--silent", "--fail", "--create-dirs", "--config", str(config)]
    if streams > 1:
        options += ["--parallel", "--parallel-max", str(streams)]
    # curl draws its progress in parallel transfers even if it is silent.
    subprocess.run(["curl", *options], check=True, stderr=subprocess.DEVNULL)
    paths = [folder / name for name in names]
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if hashes:
        subprocess.run(["sha256sum", *map(str, paths)], check=True, stdout=subprocess.DEVNULL)


class Place(NamedTuple):
    """Where a record is in a store."""

    row: int
    path: str  # of the shard, relative to the store
    first: int  # byte
    length: int


def places_of(store: FeatureStore) -> list[Place]:
    """Return the place of each record of a store on this machine, by its row."""
    places: list[Place] = []
    size = index_bytes(store.metadata.shard_records)
    for shard in sorted(store.shards, key=lambda shard: shard.first_row):
        with (store.path / shard.path).open("rb") as file:
            file.seek(-size, os.SEEK_END)
            index = decode_index(file.read(), shard.bytes).tolist()
        for position, (first, length) in enumerate(index[: shard.records]):
            places.append(Place(shard.first_row + position, shard.path, first, length))
    return places


def random_reads(setting: Setting) -> None:
    """Processor time of a record and requests of a record, against a bare client and zarr-python.

    All decode the records into arrays, as they lie on the disk. Ours also compares their sha256 and
    writes them into the cache.
    """
    store, count = setting.store, setting.store.metadata.shard_records
    ids = {row.row: row.image_id for row in store.index}
    places = places_of(store)
    warm = places[::count]  # the first of each shard
    others = [place for place in places if place.row % count]
    order = np.random.default_rng(0).permutation(len(others)).tolist()
    rounds = min(setting.rounds, len(others) // READS)
    groups = [[others[k] for k in order[READS * n : READS * (n + 1)]] for n in range(rounds)]
    requests: list[float] = []
    with setting.empty_cache(), serving(setting.web, setting.new("scratch")) as server:
        url = f"{server.url}/{store.path.name}"
        remote = FeatureStore.open(url)
        remote.read([ids[place.row] for place in warm])  # fetches tables and indexes of shards

        def read_ours(number: int) -> None:
            before = server.requests()
            remote.read([ids[place.row] for place in groups[number]], channels_first=True)
            requests.append((server.requests() - before) / READS)

        with BareClient(url) as bare, ZarrClient(url) as peer:
            peer.read(warm)
            ways: dict[str, Way] = {
                "clipfeat": read_ours,
                BARE: lambda number: bare.read(groups[number], hashes=False),
                "the same with sha256": lambda number: bare.read(groups[number], hashes=True),
                ZARR: lambda number: peer.read(groups[number]),
            }
            spent = take_turns(ways, rounds, time.process_time)
    _print_reads(server, spent, requests)


def _print_reads(server: Server, spent: dict[str, float], requests: list[float]) -> None:
    aims = {BARE: " (aim: at most 1.3)", ZARR: " (aim: at most 0.2)"}
    print(f"reads: {READS} random records, {IN_FLIGHT} in flight, over {server.name}")
    for name, taken in spent.items():
        ratio = spent["clipfeat"] / taken
        shown = "" if name == "clipfeat" else f"   ours takes {ratio:.2f} of it{aims.get(name, '')}"
        print(f"  {name:<24}{1e3 * taken / READS:8.2f} ms of processor time a record{shown}")
    if server.log is None:
        print("  requests a record: not counted, which needs nginx")
    else:
        print(f"  requests a record: {statistics.mean(requests):.3f} (aim: at most 1.05)")


class BareClient:
    """Ranges by urllib3 and nothing else, in threads."""

    def __init__(self, url: str):
        self._url = url
        self._pool = urllib3.PoolManager(maxsize=IN_FLIGHT)

    def __enter__(self) -> "BareClient":
        self._threads = ThreadPoolExecutor(IN_FLIGHT)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def read(self, places: Sequence[Place], *, hashes: bool) -> None:
        """Read the records, all at once."""
        out = np.empty((len(places), SHAPE.cells * DIM * 2), np.uint8)

        def read_one(place: Place, record: np.ndarray) -> None:
            wanted = f"bytes={place.first}-{place.first + place.length - 1}"
            answer = self._pool.request(
                "GET", f"{self._url}/{place.path}", headers={"Range": wanted}
            )
            if hashes:
                hashlib.sha256(answer.data).digest()
            decode_record("zstd", answer.data, None, record, verify=True)

        list(self._threads.map(read_one, places, out))


class ZarrClient:
    """zarr-python over HTTP, by fsspec and aiohttp, with a loop of its own."""

    def __init__(self, url: str):
        self._url = f"{url}/features.zarr/{SHAPE}/grid"

    def __enter__(self) -> "ZarrClient":
        self._runner = asyncio.Runner()
        self._array = self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    async def _open(self) -> Any:
        remote = FsspecStore.from_url(self._url, read_only=True)
        return await zarr.api.asynchronous.open_array(store=remote, mode="r")

    def read(self, places: Sequence[Place]) -> None:
        """Read the records, IN_FLIGHT of them at a time."""

        async def read_all() -> None:
            slots = asyncio.Semaphore(IN_FLIGHT)

            async def read_one(row: int) -> None:
                async with slots:
                    np.asarray(await self._array.getitem(row))

            await asyncio.gather(*(read_one(place.row) for place in places))

        self._runner.run(read_all())


def opening(setting: Setting) -> None:
    """Open a store of many ids on a distant server, and look one up, in a fresh process."""
    path = setting.web / "tables.clipfeat"
    write_tables(path, setting.ids)
    with (
        setting.empty_cache(),
        serving(setting.web, setting.new("scratch")) as server,
        slow_link(server, latency=setting.latency) as url,
    ):
        print(f"open: {setting.ids:,} ids, {1e3 * setting.latency:.0f} ms for each request")
        arguments = (f"{url}/{path.name}", image_id(1))
        child = mp.get_context("spawn").Process(target=_open, args=arguments)
        child.start()
        child.join()
        print(f"  requests: {server.requests():.0f}")
    shutil.rmtree(path)


def _open(url: str, name: str) -> None:
    before = _peak_megabytes()
    start = time.perf_counter()
    store = FeatureStore.open(url)
    _print_opening("opened", start, before, " (aim: 1 s, 64 MB)")
    assert store.statuses([name]) == [Status.OK]
    _print_opening("and one id looked up", start, before)


def _print_opening(what: str, start: float, before: float, aim: str = "") -> None:
    seconds, added = time.perf_counter() - start, _peak_megabytes() - before
    print(f"  {what:<24}{seconds:8.2f} s, {added:.1f} MB more at the peak{aim}", flush=True)


def _peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3
