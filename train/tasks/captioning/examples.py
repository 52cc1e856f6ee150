"""The captions of a split as numbers, batches of them with their grids, and a split to score."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from ...data.caption_vocabulary import BEGIN, END, UNKNOWN_WORD, CaptionVocabulary
from ...data.captions import CaptionedImage, CaptionSplit
from ...data.ids import StoredIds, find_images, require_different
from ...data.vocabulary import PADDING, UNKNOWN, require_known
from ...metrics.cider import TextCider
from ...records import NO_BOXES, RecordReader, Records

MAX_TOKENS = 16  # of a caption; the field's reading of COCO cuts longer ones


@dataclass(frozen=True)
class CaptionExamples:
    """The captions of a split as numbers; an example is a caption."""

    ids: tuple[int | str, ...]  # of the images, the data set's own
    image_ids: tuple[str, ...]  # of the same images, the store's own
    texts: tuple[tuple[str, ...], ...]  # captions of each image, as words
    image_of_caption: Int[np.ndarray, " caption"]  # positions in the above
    tokens: Int[np.ndarray, "caption token"]  # BEGIN, words, END, padding

    def __len__(self) -> int:
        return len(self.tokens)


class CaptionBatch(NamedTuple):
    """Some captions, and the images that they are of, each once."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    grid_shapes: Int[Tensor, "image 2"]
    image_of_caption: Int[Tensor, " caption"]
    tokens: Int[Tensor, "caption token"]
    boxes: Float32[Tensor, "image cell 5"] = NO_BOXES

    @property
    def records(self) -> Records:
        """The grids of the images."""
        return Records(self.features, self.mask, self.grid_shapes, self.boxes)


class ImageBatch(NamedTuple):
    """Some images, without captions."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    grid_shapes: Int[Tensor, "image 2"]
    images: Int[Tensor, " image"]  # positions in the split
    boxes: Float32[Tensor, "image cell 5"] = NO_BOXES

    @property
    def records(self) -> Records:
        """The grids of the images."""
        return Records(self.features, self.mask, self.grid_shapes, self.boxes)


def encode(
    split: CaptionSplit,
    vocabulary: CaptionVocabulary,
    store: StoredIds,
    *,
    max_tokens: int = MAX_TOKENS,
    skip_missing: int,
) -> CaptionExamples:
    """Return the split's captions as numbers, each cut after `max_tokens` words.

    Images without features are left out, with at most `skip_missing` captions. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    images, stored = _with_features(split, store, skip_missing)
    texts = [text for image in images for text in image.texts]
    rows = [vocabulary.encode(text)[:max_tokens] for text in texts]
    known = np.array([_has_word(row, vocabulary) for row in rows])
    require_known(known, texts, of=f"split {split.name!r}", noun="captions")
    return CaptionExamples(
        ids=tuple(image.image_id for image in images),
        image_ids=stored,
        texts=tuple(image.texts for image in images),
        image_of_caption=np.repeat(np.arange(len(images)), [len(i.texts) for i in images]),
        tokens=pad_rows(rows, max_tokens),
    )


def read_batch(
    reader: RecordReader, examples: CaptionExamples, numbers: Int[np.ndarray, " caption"]
) -> CaptionBatch:
    """Return the captions at `numbers`; each image's record is read once."""
    images, image_of_caption = np.unique(examples.image_of_caption[numbers], return_inverse=True)
    records = reader.read([examples.image_ids[image] for image in images])
    tokens = examples.tokens[numbers]
    longest = int((tokens != PADDING).sum(axis=1).max())
    return CaptionBatch(
        **records._asdict(),
        image_of_caption=reader.pinned(torch.from_numpy(image_of_caption)),
        tokens=reader.pinned(torch.from_numpy(tokens[:, :longest])),
    )


def read_images(
    reader: RecordReader, image_ids: Sequence[str], images: Int[np.ndarray, " image"]
) -> ImageBatch:
    """Return the images at these positions of the store's ids, each once, in this order."""
    records = reader.read([image_ids[int(image)] for image in images])
    return ImageBatch(**records._asdict(), images=reader.pinned(torch.from_numpy(images)))


def fetch_images(
    reader: RecordReader, image_ids: Sequence[str], images: Int[np.ndarray, " image"]
) -> None:
    """Bring what `read_images` will read to this machine, if it is not here."""
    reader.fetch([image_ids[int(image)] for image in images])


def _with_features(
    split: CaptionSplit, store: StoredIds, skip_missing: int
) -> tuple[list[CaptionedImage], tuple[str, ...]]:
    """Return the images that have features, and the store's ids of them."""
    candidates = [image.candidates for image in split.images for _ in image.texts]
    of_captions = find_images(
        candidates, store, texts=f"captions of split {split.name!r} are", skip_missing=skip_missing
    )
    stored_of = dict(zip(candidates, of_captions, strict=True))
    pairs = [(image, stored_of[image.candidates]) for image in split.images]
    require_different(
        [image.image_id for image in split.images],
        [stored for _, stored in pairs],
        of=f"split {split.name!r}",
    )
    kept = [(image, stored) for image, stored in pairs if stored is not None]
    return [image for image, _ in kept], tuple(stored for _, stored in kept)


def _has_word(row: list[int], vocabulary: CaptionVocabulary) -> bool:
    """Return whether tokens stand for any word, or for a part of one that is no mere beginning."""
    return UNKNOWN not in row or bool(vocabulary.decode(row).replace(UNKNOWN_WORD, "").strip())


def pad_rows(rows: list[list[int]], max_tokens: int) -> Int[np.ndarray, "caption token"]:
    """Return captions of at most `max_tokens` tokens each as rows: BEGIN, tokens, END, padding."""
    tokens = np.full((len(rows), max_tokens + 2), PADDING)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row) + 2] = [BEGIN, *row, END]
    return tokens


@dataclass(frozen=True)
class EvalSplit:
    """A split to caption: its images, and the examples of those that have features."""

    split: CaptionSplit
    examples: CaptionExamples

    @functools.cached_property
    def cider(self) -> TextCider:
        """The scorer by the split's own references and document frequencies."""
        return TextCider([image.texts for image in self.split.images], end_is_word=False)

    def complete(self, captions: Mapping[int | str, str]) -> dict[int | str, str]:
        """Return a caption of every image: the empty one where it has no features."""
        return {image.image_id: captions.get(image.image_id, "") for image in self.split.images}

    def score_each(self, captions: Mapping[Any, str]) -> Float64[np.ndarray, " image"]:
        """Return 100 times the CIDEr-D of every image's caption, in the split's order."""
        count = len(self.split.images)
        texts = list(self.complete(captions).values())
        return 100 * self.cider.scores(texts, range(count), ended=[True] * count)

    def score(self, captions: Mapping[int | str, str]) -> float:
        """Return 100 times the CIDEr-D of captions by image id, as papers print it."""
        return round(float(self.score_each(captions).mean()), 2)

    def score_table(self, captions: Mapping[int | str, str]) -> dict[str, Any]:
        """Return the score of each image."""
        ids = [image.image_id for image in self.split.images]
        scores = [round(score, 2) for score in self.score_each(captions).tolist()]
        return {"split": self.split.name, "ids": ids, "images": ids, "scores": scores}
