"""The batches that shard tasks are cut into, and what is said when one is down."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...featstore.writing.receipt import Receipt
from ...manifests import Image
from ..planning.passes import Passes
from ..planning.plan import ShardTask
from .profile import Spent


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
