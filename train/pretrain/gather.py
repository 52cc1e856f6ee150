"""A corpus as it is gathered: its texts, images and answers, each once, and their numbers."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from tqdm import tqdm

from ...base.text import printable
from ..vqa.answers import answer_classes
from .corpus.read import read_sentences
from .corpus.sentences import Sentence


@dataclass
class Corpus:
    """Sentences about images, as they are gathered: each text, image and answer is kept once."""

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


@dataclass(frozen=True)
class Answers:
    """The answers to each sentence, of those that are classes; most sentences have none."""

    first: Int[np.ndarray, " bound"]  # of each sentence, and where the last one's end
    numbers: Int[np.ndarray, " answer"]
    total: Float64[np.ndarray, " sum"]  # of the scores of all answers before; the last of all

    def draw(
        self, sentences: Int[np.ndarray, " text"], chances: Float[np.ndarray, " text"]
    ) -> Int[np.ndarray, " text"]:
        """Return an answer to each sentence, drawn by score, -1 where it has none.

        `chances` are the random numbers, 0 to 1, that decide.
        """
        first, end = self.first[sentences], self.first[sentences + 1]
        score = self.total[first] + chances * (self.total[end] - self.total[first])
        place = np.searchsorted(self.total, score, side="right") - 1
        place = np.clip(place, first, end - 1)  # rounding leads out of the sentence's own
        has_one = end > first
        found = np.full(len(sentences), -1)
        found[has_one] = self.numbers[place[has_one]]
        return found


def select_answers(
    corpus: Corpus, classes: Sequence[str], kept: Bool[np.ndarray, " sentence"]
) -> Answers:
    """Return the answers that are classes, of the sentences that are `kept`."""
    class_of = {answer: number for number, answer in enumerate(classes)}
    class_of_answer = np.array([class_of.get(answer, -1) for answer in corpus.answers] or [-1])
    first = np.asarray(corpus.first_answer)
    sentence = np.repeat(np.arange(len(first) - 1), np.diff(first))
    numbers = class_of_answer[np.asarray(corpus.answer, dtype=np.int64)]
    scores = np.asarray(corpus.score, dtype=np.float32)
    chosen = (numbers >= 0) & (scores > 0) & kept[sentence]
    counts = np.bincount(sentence[chosen], minlength=len(first) - 1)[kept]
    total = np.concatenate(([0.0], np.cumsum(scores[chosen], dtype=np.float64)))
    return Answers(np.concatenate(([0], np.cumsum(counts))), numbers[chosen], total)
