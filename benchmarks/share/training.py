"""Phases that train on a URL: the first batch from a cold store, and epochs against a local store."""

import json
import time
from pathlib import Path
from typing import Any, NoReturn

from clipfeat.featstore.sharing.pull import pull
from clipfeat.train import fit
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask

from .made import Setting
from .servers import serving, slow_link

EPOCHS = 3


class FirstBatchReady(Exception):
    """Ends a training that has read its first batch."""


class FirstBatch(VqaTask):
    """A task that ends training at its first batch."""

    def batch(self, numbers: Any, epoch: int) -> NoReturn:
        """Read a batch, and raise FirstBatchReady."""
        super().batch(numbers, epoch)
        raise FirstBatchReady


def _seconds_to_first_batch(store: str | Path, data: Path, run: Path) -> float:
    """Return the seconds from opening a store until training has its first batch."""
    settings = load_settings(VqaSettings, config=None, assignments=())
    start = time.perf_counter()
    try:
        fit(FirstBatch(settings, store=store, data=data, device="cpu"), run)
    except FirstBatchReady:
        return time.perf_counter() - start
    raise AssertionError("training has read no batch")


def first_batch(setting: Setting) -> None:
    """How long training waits for its first batch: on the URL, and where it pulls the store first."""
    store, data = setting.store, setting.write_questions("questions", setting.scenes)
    size = sum(shard.bytes for shard in store.shards)
    print(f"batch: a store of {size / 1e9:.2f} GB at {setting.rate / 1e6:.0f} MB/s")
    with (
        serving(setting.web, setting.new("scratch")) as server,
        slow_link(server, rate=setting.rate) as address,
    ):
        url = f"{address}/{store.path.name}"
        with setting.empty_cache():
            seconds = _seconds_to_first_batch(url, data, setting.new("run"))
        start = time.perf_counter()
        copy = setting.new("copy") / store.path.name
        pull(url, copy)
        pulled = time.perf_counter() - start
        local = _seconds_to_first_batch(copy, data, setting.new("run"))
    print(f"  on the URL, nothing cached   {seconds:8.1f} s (aim: 15)")
    print(f"  pull, then on the copy       {pulled + local:8.1f} s, of it {pulled:.1f} the pull")


def epochs(setting: Setting) -> None:
    """How much slower training is on a URL than on this machine, in each epoch."""
    store = setting.store
    data = setting.write_questions("questions", setting.scenes[: setting.images])
    print(
        f"epoch: VQA on {setting.images} of {len(store):,} images at {setting.rate / 1e6:.0f} MB/s"
    )
    with (
        setting.empty_cache(),
        serving(setting.web, setting.new("scratch")) as server,
        slow_link(server, rate=setting.rate) as address,
    ):
        remote = _rates(f"{address}/{store.path.name}", data, setting.new("remote"))
        local = _rates(store.path, data, setting.new("local"))
    for name, (rates, waited) in (("on the URL", remote), ("on this machine", local)):
        shown = ", ".join(f"{rate:.0f}" for rate in rates)
        print(
            f"  {name:<18}{shown} examples/s by epoch; waited for data {waited:.1f} % of the time"
        )
    first, *later = (1 - ours / theirs for ours, theirs in zip(remote[0], local[0], strict=True))
    shown = ", ".join(f"{lost:.1%}" for lost in later)
    print(f"  lost in the first epoch {first:.1%}, in later ones {shown} (aim: 10%)")


def _rates(store: str | Path, data: Path, run: Path) -> tuple[list[float], float]:
    """Train; return the examples/s of each epoch, without evaluation, and percent of waiting."""
    settings = load_settings(VqaSettings, config=None, assignments=[f"epochs={EPOCHS}"])
    fit(VqaTask(settings, store=store, data=data, device="cpu"), run)
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    epochs = [record for record in records if "examples_per_s" in record]
    return [record["examples_per_s"] for record in epochs], epochs[-1]["data_wait"]
