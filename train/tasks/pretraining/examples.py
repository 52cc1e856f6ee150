"""The sentences of a corpus: gathered from its files, as numbers, and in masked batches."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Num
from torch import Tensor
from tqdm import tqdm

from ....base.text import printable
from ...data.ids import StoredIds, find_images, lxmert_candidates
from ...data.lxmert import Sentence, read_sentences
from ...data.vocabulary import (
    MASK,
    PADDING,
    SPECIAL_PIECES,
    WordPieces,
    answer_classes,
    require_known,
)
from ...records import RecordReader
from ..answering import SoftAnswers
from ..settings import PretrainSettings
from .masking import IGNORED, RngStream, example_uniforms, mask_words, replace_texts, sample_cells


@dataclass
class Corpus:
    """Sentences about images, as they are gathered: each text, image and answer is kept once."""

    sources: set[str] = field(default_factory=set)  # names of the data sets
    images: dict[str, int] = field(default_factory=dict)  # {id as the files have it: number}
    texts: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    image_of_sentence: "array[int]" = field(default_factory=lambda: array("i"))
    text_of_sentence: "array[int]" = field(default_factory=lambda: array("i"))
    # The answers to sentence n are those from first_answer[n] to before first_answer[n + 1].
    first_answer: "array[int]" = field(default_factory=lambda: array("q", [0]))
    answer: "array[int]" = field(default_factory=lambda: array("i"))
    score: "array[float]" = field(default_factory=lambda: array("f"))

    def add(self, sentence: Sentence) -> None:
        """Take in one sentence."""
        self.sources.add(sentence.source)
        image = self.images.setdefault(sentence.image_id, len(self.images))
        self.image_of_sentence.append(image)
        self.text_of_sentence.append(self.texts.setdefault(sentence.text, len(self.texts)))
        for answer, score in (sentence.answers or {}).items():
            self.answer.append(self.answers.setdefault(answer, len(self.answers)))
            self.score.append(score)
        self.first_answer.append(len(self.answer))

    def common_answers(self, *, min_count: int) -> tuple[str, ...]:
        """Return the answers that are the best one of `min_count` questions, commonest first."""
        names = list(self.answers)
        return answer_classes((names[n] for n in self._best_answers()), min_count=min_count)

    def _best_answers(self) -> Iterator[int]:
        """Yield the number of the best answer to each question that has one."""
        for first, end in zip(self.first_answer[:-1], self.first_answer[1:], strict=True):
            if first < end:
                scores = self.score[first:end]
                yield self.answer[first + scores.index(max(scores))]


def read_corpus(files: Iterable[Path]) -> Corpus:
    """Return what the files of a corpus hold; raises as `read_sentences` does."""
    corpus = Corpus()
    for path in files:
        for sentence in tqdm(
            read_sentences(path), printable(path.name), unit=" sentences", disable=None
        ):
            corpus.add(sentence)
    return corpus


def select_answers(
    corpus: Corpus, classes: Sequence[str], kept: Bool[np.ndarray, " sentence"]
) -> SoftAnswers:
    """Return the answers that are classes, of the sentences that are `kept`."""
    class_of = {answer: number for number, answer in enumerate(classes)}
    class_of_answer = np.array([class_of.get(answer, -1) for answer in corpus.answers] or [-1])
    first = np.asarray(corpus.first_answer)
    sentence = np.repeat(np.arange(len(first) - 1), np.diff(first))
    numbers = class_of_answer[np.asarray(corpus.answer, dtype=np.int64)]
    scores = np.asarray(corpus.score, dtype=np.float32)
    chosen = (numbers >= 0) & (scores > 0) & kept[sentence]
    counts = np.bincount(sentence[chosen], minlength=len(first) - 1)[kept]
    first_of_kept = np.concatenate(([0], np.cumsum(counts)))
    return SoftAnswers(first_of_kept, numbers[chosen], scores[chosen])


TEXTS_AT_ONCE = 100_000
CANDIDATES = 8  # texts that are tried as replacement of one, until one is not the image's own
NO_ANSWER = -1


class PretrainBatch(NamedTuple):
    """Some texts, the sampled cells of their images, and what is to be predicted."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    places: Num[Tensor, "image cell place"]  # row and column, or the box of a region
    hidden: Bool[Tensor, "image cell"]  # cells that are to be predicted
    image_of_text: Int[Tensor, " text"]
    tokens: Int[Tensor, "text token"]
    masked: Int[Tensor, " masked"]  # positions in the flattened tokens that are to be predicted
    pieces: Int[Tensor, " masked"]  # the tokens there before masking
    matched: Float32[Tensor, " text"]  # 1 where the text is about the image
    answers: Int[Tensor, " text"]  # -1 without an answer


@dataclass(frozen=True)
class Sentences:
    """The sentences of a split as numbers."""

    image_ids: tuple[str, ...]  # of the store, each once
    image_of_sentence: Int[np.ndarray, " sentence"]
    tokens: Int[np.ndarray, "text token"]  # of every different text
    text_of_sentence: Int[np.ndarray, " sentence"]
    meaning_of_text: Int[np.ndarray, " text"]  # equal for texts that say the same
    answers: SoftAnswers

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

    def fetch(self, numbers: Int[np.ndarray, " text"]) -> None:
        """Bring the records that `read` will read to this machine, if they are not here."""
        images = np.unique(self.sentences.image_of_sentence[numbers])
        self.reader.fetch([self.sentences.image_ids[image] for image in images])

    def _texts(self, numbers: Int[np.ndarray, " text"], epoch: int) -> dict[str, np.ndarray]:
        sentences, objectives = self.sentences, self.settings.objectives
        width = sentences.tokens.shape[1]
        # Uniforms of: whether the text is replaced, its answer, candidates, then two for each piece.
        random = example_uniforms(
            self.settings.seed, epoch, RngStream.TEXT, numbers, 2 + CANDIDATES + 2 * width
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
            special=np.array([self.words.number(piece) for piece in SPECIAL_PIECES]),
            mask=self.words.number(MASK),
            pieces=self.words.size,
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
        random = example_uniforms(self.settings.seed, epoch, RngStream.GRID, images, 2 * count)
        # Alternating, so that a cell's numbers do not depend on the width of the batch.
        sampled = sample_cells(
            records.mask.cpu().numpy(), random[:, ::2], self.sampled_cells or count
        )
        cells = torch.from_numpy(sampled.cells)
        if len(records.boxes):
            places = self.reader.select(records.boxes, cells)
        else:
            cols = records.grid_shapes[:, 1:]
            places = self.reader.pinned(torch.stack((cells // cols, cells % cols), dim=-1))
        rate = objectives.mask_cells if objectives.cells else 0.0
        hidden = np.take_along_axis(random[:, 1::2], sampled.cells, axis=1) < rate
        pinned = self.reader.pinned
        return {
            "features": self.reader.select(records.features, cells),
            "mask": pinned(torch.from_numpy(sampled.mask)),
            "places": places,
            "hidden": pinned(torch.from_numpy(hidden & sampled.mask)),
        }


def encode(
    corpus: Corpus,
    name: str,
    store: StoredIds,
    *,
    words: WordPieces,
    answers: Sequence[str],
    max_tokens: int,
    skip_missing: int,
) -> Sentences:
    """Return the sentences of corpus `name` as numbers.

    Those about images without features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    candidates = [lxmert_candidates(image) for image in corpus.images]
    stored = find_images(
        [candidates[image] for image in corpus.image_of_sentence],
        store,
        texts=f"sentences of corpus {name!r} are",
        skip_missing=skip_missing,
    )
    kept = np.array([image_id is not None for image_id in stored])
    numbers: dict[str, int] = {}
    images = [numbers.setdefault(image_id, len(numbers)) for image_id in stored if image_id]
    texts = list(corpus.texts)
    tokens = words.encode(texts, max_tokens=max_tokens)
    require_known(words.known(tokens), texts, of=f"corpus {name!r}", noun="different sentences")
    return Sentences(
        image_ids=tuple(numbers),
        image_of_sentence=np.array(images),
        tokens=tokens,
        text_of_sentence=np.asarray(corpus.text_of_sentence)[kept],
        meaning_of_text=_meanings(tokens, words),
        answers=select_answers(corpus, answers, kept),
    )


def _meanings(tokens: Int[np.ndarray, "text token"], words: WordPieces) -> Int[np.ndarray, " text"]:
    """Return a number for each text, equal for texts that differ only in punctuation and case."""
    in_front = np.zeros_like(tokens)  # the pieces of words, without gaps
    for start in range(0, len(tokens), TEXTS_AT_ONCE):  # LXMERT's six million at once take 3 GB
        part = slice(start, start + TEXTS_AT_ONCE)
        pieces = np.where(words.of_words[tokens[part]], tokens[part], 0)
        order = np.argsort(pieces == 0, axis=1, kind="stable")
        in_front[part] = np.take_along_axis(pieces, order, axis=1)
    _, meaning = np.unique(in_front, axis=0, return_inverse=True)
    return meaning.reshape(-1)
