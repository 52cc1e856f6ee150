"""The sentences of a corpus as numbers, and batches of them as the objectives want them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ..grids.records import RecordReader
from ..texts.pieces import MASK, SPECIAL, WordPieces
from ..texts.words import PADDING
from .chances import Purpose, chances
from .gather import Answers
from .masking import IGNORED, mask_words, replace_texts, sample_cells
from .settings import PretrainSettings

CANDIDATES = 8  # texts that are tried as replacement of one, until one is not the image's own
NO_ANSWER = -1


class PretrainBatch(NamedTuple):
    """Some texts, the sampled cells of their images, and what is to be found out about them."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    places: Int[Tensor, "image cell 2"]  # row, column
    hidden: Bool[Tensor, "image cell"]  # cells that are to be guessed
    image_of_text: Int[Tensor, " text"]
    tokens: Int[Tensor, "text token"]
    masked: Int[Tensor, " masked"]  # places in tokens, row after row, that are to be guessed
    pieces: Int[Tensor, " masked"]  # what was there
    matched: Float32[Tensor, " text"]  # 1 where the text is about the image
    answers: Int[Tensor, " text"]  # -1 where there is none to give

    def to(self, device: torch.device) -> "PretrainBatch":
        """Return the batch with its tensors on `device`; from pinned memory, without waiting."""
        return PretrainBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class Sentences:
    """The sentences of a split as numbers."""

    image_ids: tuple[str, ...]  # of the store, each once
    image_of_sentence: Int[np.ndarray, " sentence"]
    tokens: Int[np.ndarray, "text token"]  # of every different text
    text_of_sentence: Int[np.ndarray, " sentence"]
    meaning_of_text: Int[np.ndarray, " text"]  # equal for texts that say the same
    answers: Answers

    def __len__(self) -> int:
        return len(self.image_of_sentence)

    def own(
        self, images: Int[np.ndarray, " n"], texts: Int[np.ndarray, "n candidate"]
    ) -> Bool[np.ndarray, "n candidate"]:
        """Return which texts say the same as one of the image's own."""
        keys = self._key(images[:, None], texts)
        place = np.searchsorted(self._own_keys, keys).clip(max=len(self._own_keys) - 1)
        return self._own_keys[place] == keys

    @cached_property
    def _own_keys(self) -> Int[np.ndarray, " own"]:
        return np.unique(self._key(self.image_of_sentence, self.text_of_sentence))

    def _key(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return images.astype(np.int64) * len(self.tokens) + self.meaning_of_text[texts]


@dataclass(frozen=True)
class BatchReader:
    """Reads batches of sentences: masked, half of them replaced, with some cells of each image."""

    reader: RecordReader
    sentences: Sentences
    words: WordPieces
    settings: PretrainSettings
    sampled_cells: int  # 0: all

    def read(self, numbers: Int[np.ndarray, " text"], epoch: int) -> PretrainBatch:
        """Return the sentences at `numbers`, as (seed, epoch) hides and replaces them.

        Each image's record is read once, and the same of its cells are sampled for all its texts.
        """
        sentences = self.sentences
        images, image_of_text = np.unique(sentences.image_of_sentence[numbers], return_inverse=True)
        cells = self._cells(images, epoch)
        texts = self._texts(numbers, epoch)
        pinned = self.reader.pinned
        return PretrainBatch(
            **cells,
            image_of_text=pinned(torch.from_numpy(image_of_text)),
            **{name: pinned(torch.from_numpy(array)) for name, array in texts.items()},
        )

    def _texts(self, numbers: Int[np.ndarray, " text"], epoch: int) -> dict[str, np.ndarray]:
        sentences, objectives = self.sentences, self.settings.objectives
        width = sentences.tokens.shape[1]
        # Whether the text is replaced, which answer it has, what may replace it, then two a piece.
        random = chances(
            self.settings.seed, epoch, Purpose.TEXT, numbers, 2 + CANDIDATES + 2 * width
        )
        candidates = (random[:, 2 : 2 + CANDIDATES] * len(sentences)).astype(np.int64)
        others = sentences.text_of_sentence[candidates]
        texts, matched = replace_texts(
            sentences.text_of_sentence[numbers],
            others,
            sentences.own(sentences.image_of_sentence[numbers], others),
            random[:, 0],
            rate=objectives.mismatch if objectives.matching else 0.0,
        )
        tokens = sentences.tokens[texts]
        hidden, labels = mask_words(
            tokens,
            random[:, 2 + CANDIDATES :],
            rate=objectives.mask_words if objectives.words else 0.0,
            special=np.array([self.words.number(piece) for piece in SPECIAL]),
            mask=self.words.number(MASK),
            pieces=self.words.tokens,
        )
        longest = int((tokens != PADDING).sum(axis=1).max())
        labels = labels[:, :longest].ravel()
        answers = sentences.answers.draw(numbers, random[:, 1])
        return {
            "tokens": np.ascontiguousarray(hidden[:, :longest]),
            "masked": np.flatnonzero(labels != IGNORED),
            "pieces": labels[labels != IGNORED].astype(np.int64),
            "matched": matched.astype(np.float32),
            "answers": np.where(matched, answers, NO_ANSWER),
        }

    def _cells(self, images: Int[np.ndarray, " image"], epoch: int) -> dict[str, Tensor]:
        objectives = self.settings.objectives
        records = self.reader.read([self.sentences.image_ids[image] for image in images])
        count = records.mask.shape[1]
        random = chances(self.settings.seed, epoch, Purpose.GRID, images, 2 * count)
        # By turns, so that a cell's numbers do not depend on how wide the batch is.
        sampled = sample_cells(
            records.mask.cpu().numpy(), random[:, ::2], self.sampled_cells or count
        )
        cells = torch.from_numpy(sampled.cells)
        cols = records.grid_shapes[:, 1:]
        rate = objectives.mask_cells if objectives.cells else 0.0
        hidden = np.take_along_axis(random[:, 1::2], sampled.cells, axis=1) < rate
        pinned = self.reader.pinned
        return {
            "features": self.reader.select(records.features, cells),
            "mask": pinned(torch.from_numpy(sampled.mask)),
            "places": pinned(torch.stack((cells // cols, cells % cols), dim=-1)),
            "hidden": pinned(torch.from_numpy(hidden & sampled.mask)),
        }
