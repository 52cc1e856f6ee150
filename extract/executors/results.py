"""The interface of executors, and what they report of each batch; light to import."""

from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from ...base.text import counted
from ...featstore.writing.receipts import Receipt
from ...manifests import Image
from ..planning.plan import Job, ShardTask
from ..planning.recipe import Recipe


@dataclass(frozen=True)
class StageTimings:
    """Seconds of one device's batches; what runs in several processes or threads is summed."""

    wall: float = 0.0  # from one batch to the next
    device: float = 0.0  # the device computed
    decode: float = 0.0  # decoder processes read, decoded and resized
    encode: float = 0.0  # threads compressed
    write: float = 0.0  # the writer's thread wrote
    commit: float = 0.0  # the committer's thread waited for the disk
    starved: float = 0.0  # the thread that feeds the device waited for pixels

    def __add__(self, other: "StageTimings") -> "StageTimings":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return StageTimings(*(a + b for a, b in pairs))

    @property
    def waited(self) -> float:
        """Return the share of time, 0 to 1, in which the device had nothing to do."""
        return max(0.0, 1 - self.device / self.wall) if self.wall else 0.0

    def text(self, images: int) -> str:
        """Return a table for a person: seconds of each stage, and milliseconds an image."""
        stages = {
            "device": (self.device, "computing"),
            "decode": (self.decode, "decoder processes, summed"),
            "encode": (self.encode, "compressing threads, summed"),
            "write": (self.write, "writing and hashing"),
            "commit": (self.commit, "waiting until shards are on the disk"),
            "starved": (self.starved, "waiting for pixels, before the device"),
            "wall": (self.wall, f"the device waited {100 * self.waited:.1f} % of it"),
        }
        return "\n".join(
            f"{name:<8}{seconds:9.2f} s {1000 * seconds / max(1, images):9.2f} ms/image  {note}"
            for name, (seconds, note) in stages.items()
        )


class BatchResult(NamedTuple):
    """The counts of a written batch, or the sum of several of one shard."""

    images: int = 0
    refused: int = 0
    bytes: int = 0  # of features, as stored
    timings: StageTimings = StageTimings()
    receipt: Receipt | None = None  # of the shard, with its last batch
    warning: str = ""  # for a person, where something went wrong

    def plus(self, other: "BatchResult") -> "BatchResult":
        """Return the sum of this batch and a later one of the same shard."""
        return BatchResult(
            self.images + other.images,
            self.refused + other.refused,
            self.bytes + other.bytes,
            self.timings + other.timings,
            other.receipt,
            self.warning or other.warning,
        )


@runtime_checkable
class Executor(Protocol):
    """What computes the shards of a run: this process, one for each device, or a cluster."""

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Return how many images of (height, width) pixels to compute at once."""
        ...

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[BatchResult, None, None]:
        """Write the shard of every task; yields each batch, or several in one, once written."""
        ...


def list_images(images: Sequence[Image]) -> str:
    """Return how many images these are, and which, for an error: 2 images ('a', 'b')."""
    ids = [image.image_id for image in images]
    names = ", ".join(map(repr, ids[:3])) + (f" ... {ids[-1]!r}" if len(ids) > 3 else "")
    return f"{counted(len(ids), 'image')} ({names})"
