"""Texts about images, as numbers, and batches of them with the images' grids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..loop.batches import Order
from ..settings import LoopSettings
from ..texts.words import PADDING


class GroundedBatch(NamedTuple):
    """Some texts, and the images that they are about, each once."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    grid_shapes: Int[Tensor, "image 2"]
    image_of_text: Int[Tensor, " text"]
    tokens: Int[Tensor, "text token"]
    targets: Float32[Tensor, "text answer"]

    def to(self, device: torch.device) -> "GroundedBatch":
        """Return the batch with its tensors on `device`; from pinned memory, without waiting."""
        return GroundedBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All but the targets, in the order in which a model takes them."""
        return self[:-1]


@dataclass(frozen=True)
class Targets:
    """The answers that score, of some texts: those of a text stand beside each other."""

    first: Int[np.ndarray, " bound"]  # where those of each text begin, and where the last one's end
    answers: Int[np.ndarray, " answer"]
    scores: Float32[np.ndarray, " answer"]  # 0 to 1

    @staticmethod
    def of(rows: Sequence[Mapping[int, float]]) -> "Targets":
        """Return the targets of texts whose {answer: score} are given."""
        counts = [len(row) for row in rows]
        answers = np.fromiter(chain.from_iterable(rows), np.int64, sum(counts))
        scores = chain.from_iterable(row.values() for row in rows)
        first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return Targets(first, answers, np.fromiter(scores, np.float32, sum(counts)))

    def table(
        self, numbers: Int[np.ndarray, " text"], answers: int
    ) -> Float32[Tensor, "text {answers}"]:
        """Return the score of every answer to each of the texts at `numbers`."""
        begins, counts = self.first[numbers], np.diff(self.first)[numbers]
        row = np.repeat(np.arange(len(numbers)), counts)
        place = np.arange(len(row)) + np.repeat(begins - np.cumsum(counts) + counts, counts)
        table = torch.zeros(len(numbers), answers)
        table.numpy()[row, self.answers[place]] = self.scores[place]
        return table


@dataclass(frozen=True)
class Examples:
    """The texts of a split as numbers."""

    ids: tuple[int | str, ...]  # of the questions, or of whatever the texts are
    image_ids: tuple[str, ...]  # of the store, each once
    image_of_text: Int[np.ndarray, " text"]  # positions in image_ids
    tokens: Int[np.ndarray, "text token"]
    targets: Targets | None  # None where none are known

    def __len__(self) -> int:
        return len(self.ids)


def make_order(
    image_of_text: Int[np.ndarray, " text"],
    image_ids: Sequence[str],
    store: FeatureStore,
    settings: LoopSettings,
) -> Order:
    """Return the order that the settings ask for of texts about images of a store."""
    shapes = None
    if settings.by_shape:
        _, shapes = np.unique(store.shapes(list(image_ids)), axis=0, return_inverse=True)
    return Order(image_of_text, together=settings.together, shape_of_image=shapes)


def read_batch(
    reader: RecordReader, examples: Examples, numbers: Int[np.ndarray, " text"], *, answers: int
) -> GroundedBatch:
    """Return the texts at `numbers`; each image's record is read once.

    `answers` is the number of classes. Targets are zeros where none are known.
    """
    images, image_of_text = np.unique(examples.image_of_text[numbers], return_inverse=True)
    records = reader.read([examples.image_ids[image] for image in images])
    tokens = examples.tokens[numbers]
    longest = int((tokens != PADDING).sum(axis=1).max())
    if examples.targets is None:
        targets = torch.zeros(len(numbers), answers)
    else:
        targets = examples.targets.table(numbers, answers)
    small = (torch.from_numpy(image_of_text), torch.from_numpy(tokens[:, :longest]), targets)
    return GroundedBatch(*records, *(reader.pinned(tensor) for tensor in small))
