"""Where the time of an extraction goes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from ...featstore.writing.journal import Receipt
from ...manifests import Image
from ..planning.plan import Passes, ShardTask


@dataclass(frozen=True)
class Spent:
    """Seconds of one device's batches; what runs in several processes or threads is summed."""

    wall: float = 0.0  # from one batch to the next
    device: float = 0.0  # the device computed
    decode: float = 0.0  # decoder processes read, decoded and resized
    encode: float = 0.0  # threads compressed
    write: float = 0.0  # the writer's thread wrote and hashed

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

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
            "wall": (self.wall, f"the device waited {100 * self.waited:.1f} % of it"),
        }
        return "\n".join(
            f"{name:<8}{seconds:9.2f} s {1000 * seconds / max(1, images):9.2f} ms/image  {what}"
            for name, (seconds, what) in stages.items()
        )


class Step(NamedTuple):
    """A batch that is down; `receipt` comes with the last of a shard."""

    images: int
    refused: int
    bytes: int  # of features, as stored
    spent: Spent
    receipt: Receipt | None
    remark: str = ""  # for a person, where something went wrong


@dataclass(frozen=True)
class Batch:
    """Consecutive images of one shard."""

    task: ShardTask
    start: int  # position of the first image in the shard
    images: tuple[Image, ...]
    rows: int  # of the pass through the backbone: more than there are images where it is padded

    @property
    def is_last(self) -> bool:
        return self.start + len(self.images) == len(self.task.images)


def batches(tasks: Iterable[ShardTask], passes: Passes) -> Iterator[Batch]:
    """Cut tasks into batches; no batch spans two shards, and a shard without ids has one."""
    for task in tasks:
        start = 0
        for rows in passes.rows(len(task.images)):
            yield Batch(task, start, task.images[start : start + rows], rows)
            start += rows


def named_images(images: Sequence[Image]) -> str:
    """Return how many images these are, and which, for an error: 2 images ('a', 'b')."""
    ids = [image.image_id for image in images]
    names = ", ".join(map(repr, ids[:3])) + (f" ... {ids[-1]!r}" if len(ids) > 3 else "")
    return f"{len(ids)} images ({names})"
