"""Choosing an answer to a text about an image: what VQA and visual entailment share."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...featstore import FeatureStore
from ..batches import Numbers
from ..checkpoint import TrainedRun, load_trained
from ..data.hidden_words import HiddenTexts, HiddenWords
from ..data.vocabulary import (
    PADDING,
    TextVocabulary,
    Vocabulary,
    read_vocabulary,
    require_known,
)
from ..devices import (
    MODEL_SIZE_REMEDY,
    accelerator_on,
    inference_errors,
    memory_errors,
)
from ..engine import each_batch, eval_batch_size
from ..models.layers import AnswerBatch
from ..models.settings import AnsweringSettings
from ..models.start import (
    choose_words,
    find_start,
    make_model,
    new_model,
    require_fit,
    start_files,
)
from ..normalize import with_chosen_norm
from ..records import RecordReader
from ..run import require_features
from ..settings import LoopSettings
from ..task import Report, Task, make_order, require_apart, unscored

S = TypeVar("S", bound=AnsweringSettings)
AnswerLoss = Callable[[Tensor, Tensor], Tensor]
# A text is true of its image where the affirmative answer, and no other, scores as much: in VQA v2,
# at least three of ten people gave that answer, and at most two any other one.
TRUE = 0.9


@dataclass(frozen=True)
class SoftAnswers:
    """The answers that score, of some texts; those of one text are adjacent."""

    first: Int[np.ndarray, " bound"]  # where each text's answers begin, and the last one's end
    answers: Int[np.ndarray, " answer"]  # numbers of classes
    scores: Float32[np.ndarray, " answer"]  # 0 to 1

    @staticmethod
    def of(rows: Sequence[Mapping[int, float]]) -> "SoftAnswers":
        """Return the answers of texts, given {answer: score} of each."""
        counts = [len(row) for row in rows]
        answers = np.fromiter(chain.from_iterable(rows), np.int64, sum(counts))
        scores = chain.from_iterable(row.values() for row in rows)
        first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return SoftAnswers(first, answers, np.fromiter(scores, np.float32, sum(counts)))

    def clearly(self, answer: int, least: float) -> Bool[np.ndarray, " text"]:
        """Return to which texts `answer` is the only answer that scores at least `least`."""
        texts = len(self.first) - 1
        text_of_answer = np.repeat(np.arange(texts), np.diff(self.first))
        high = self.scores >= least
        own = high & (self.answers == answer)
        counts = (np.bincount(text_of_answer[one], minlength=texts) for one in (high, own))
        return np.logical_and(*(count == 1 for count in counts))

    def table(self, numbers: Numbers, answers: int) -> Float32[Tensor, "text {answers}"]:
        """Return the score of every class for each of the texts at `numbers`."""
        begins, counts = self.first[numbers], np.diff(self.first)[numbers]
        row = np.repeat(np.arange(len(numbers)), counts)
        position = np.arange(len(row)) + np.repeat(begins - np.cumsum(counts) + counts, counts)
        table = torch.zeros(len(numbers), answers)
        table.numpy()[row, self.answers[position]] = self.scores[position]
        return table

    @cached_property
    def _scores_before(self) -> Float64[np.ndarray, " sum"]:
        """The sum of the scores before each answer; the last is that of all."""
        return np.concatenate(([0.0], np.cumsum(self.scores, dtype=np.float64)))

    def draw(
        self, numbers: Numbers, uniforms: Float[np.ndarray, " text"]
    ) -> Int[np.ndarray, " text"]:
        """Return an answer to each text, drawn in proportion to its score; -1 where it has none.

        `uniforms`, 0 to 1, decide.
        """
        before = self._scores_before
        first, end = self.first[numbers], self.first[numbers + 1]
        score = before[first] + uniforms * (before[end] - before[first])
        position = np.searchsorted(before, score, side="right") - 1
        position = np.clip(position, first, end - 1)  # rounding may lead to another text's
        has_one = end > first
        drawn = np.full(len(numbers), -1)
        drawn[has_one] = self.answers[position[has_one]]
        return drawn


@dataclass(frozen=True)
class Examples:
    """The texts of a split as numbers."""

    ids: tuple[int | str, ...]  # of the questions, or of whatever the texts are
    image_ids: tuple[str, ...]  # of the store, each once
    image_of_text: Int[np.ndarray, " text"]  # positions in image_ids
    tokens: Int[np.ndarray, "text token"]
    targets: SoftAnswers | None  # None where none are known

    def __len__(self) -> int:
        return len(self.ids)


def read_batch(
    reader: RecordReader,
    examples: Examples,
    numbers: Numbers,
    *,
    answers: int,
    hidden: HiddenTexts | None = None,
) -> AnswerBatch:
    """Return the texts at `numbers`, and `hidden` copies; each image's record is read once.

    `answers` is the number of answers. Targets are zeros where none are known.
    """
    images, image_of_text = np.unique(examples.image_of_text[numbers], return_inverse=True)
    records = reader.read([examples.image_ids[image] for image in images])
    tokens, hidden_words = examples.tokens[numbers], np.zeros(0, dtype=np.int64)
    if hidden is not None:
        tokens = np.concatenate((tokens, hidden.tokens))
        image_of_text = np.concatenate((image_of_text, image_of_text[hidden.texts]))
        hidden_words = hidden.words
    longest = int((tokens != PADDING).sum(axis=1).max())
    if examples.targets is None:
        targets = torch.zeros(len(numbers), answers)
    else:
        targets = examples.targets.table(numbers, answers)
    return AnswerBatch(
        **records._asdict(),
        image_of_text=reader.pinned(torch.from_numpy(image_of_text)),
        tokens=reader.pinned(torch.from_numpy(tokens[:, :longest])),
        targets=reader.pinned(targets),
        hidden_words=reader.pinned(torch.from_numpy(hidden_words)),
    )


def answering_loss(
    model: nn.Module, batch: AnswerBatch, of_answers: AnswerLoss, *, word_weight: float = 0.0
) -> Float[Tensor, ""]:
    """Return the loss of a batch's answers and of its hidden words, summed over a model's heads.

    `of_answers` is the mean loss of the answers, given logits and targets. The cross-entropies of
    hidden words are added, each times `word_weight` over the number of texts: parts of a batch,
    which count in proportion to their texts, then add up to the whole batch.
    """
    outputs = model(batch)
    texts, answers = batch.targets.shape
    losses = []
    for logits in (outputs.logits, *outputs.auxiliary_logits):
        losses.append(of_answers(logits[:texts, :answers], batch.targets))
        if word_weight:
            words = cross_entropy(logits[texts:, answers:], batch.hidden_words, reduction="sum")
            losses.append(word_weight / texts * words)
    return torch.stack(losses).sum()


@torch.inference_mode()
def predict(
    model: nn.Module,
    reader: RecordReader,
    examples: Examples,
    answers: Sequence[str],
    settings: LoopSettings,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {id: answer} for every text, once each.

    With several processes each answers its part of the batches.
    """
    model.eval()
    read = partial(read_batch, reader, examples, answers=len(answers))

    def fetch(numbers: Numbers) -> None:
        images = np.unique(examples.image_of_text[numbers])
        reader.fetch([examples.image_ids[image] for image in images])

    order = np.argsort(examples.image_of_text, kind="stable")  # a record is read once
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    size = eval_batch_size(settings)
    for numbers, batch in each_batch(
        order, read, accelerator, size=size, doing="answering", fetch=fetch
    ):
        logits = model(batch).logits[:, : len(answers)]
        best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
    # Each text is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        example_id: answers[number] for example_id, number in zip(examples.ids, chosen, strict=True)
    }


@runtime_checkable
class TextSplit(Protocol):
    """A split of texts about images; each sequence is in the order of the files."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def ids(self) -> tuple[Any, ...]: ...

    @property
    def texts(self) -> tuple[str, ...]: ...

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """What a store may call the image of each text, the least ambiguous name first."""
        ...


Split = TypeVar("Split", bound=TextSplit)


def encode_texts(
    split: TextSplit,
    stored: Sequence[str | None],
    answers: Sequence[Mapping[int, float]] | None,
    *,
    words: TextVocabulary,
    max_tokens: int,
    noun: str,
) -> Examples:
    """Return the texts of a split as numbers, without those whose image has no features.

    `stored` has the store's id of each text's image, or None, and `answers` the {class: score} of
    each text. `noun` is what the texts are, as "questions". Raises as `require_known` does.
    """
    kept = [number for number, image_id in enumerate(stored) if image_id is not None]
    images = np.array([image_id for image_id in stored if image_id is not None])
    image_ids, image_of_text = np.unique(images, return_inverse=True)
    all_ids, all_texts = split.ids, split.texts
    texts = [all_texts[number] for number in kept]
    tokens = words.encode(texts, max_tokens=max_tokens)
    require_known(words.known(tokens), texts, of=f"split {split.name!r}", noun=noun)
    return Examples(
        ids=tuple(all_ids[number] for number in kept),
        image_ids=tuple(image_ids.tolist()),
        image_of_text=image_of_text,
        tokens=tokens,
        targets=None if answers is None else SoftAnswers.of([answers[n] for n in kept]),
    )


@dataclass(frozen=True)
class EvalSplit(Generic[Split]):
    """A split to answer, and the examples of those of its texts whose image has features."""

    split: Split
    examples: Examples

    @property
    def skipped(self) -> int:
        """The number of texts whose image has no features."""
        return len(self.split.ids) - len(self.examples)

    def score_table(self, scores: Mapping[Any, float | int]) -> dict[str, Any]:
        """Return what RUN/scores.json holds: the score of each text in percent, with its image.

        An image is named by its id in the store, or, without features, as the data set does.
        """
        names = (candidates[0] for candidates in self.split.candidates)
        image_of = dict(zip(self.split.ids, names, strict=True))
        for text_id, image in zip(self.examples.ids, self.examples.image_of_text, strict=True):
            image_of[text_id] = self.examples.image_ids[image]
        return {
            "split": self.split.name,
            "ids": list(scores),
            "images": [image_of[text_id] for text_id in scores],
            "scores": list(scores.values()),
        }


def predict_with(
    run: TrainedRun[S, Vocabulary, nn.Module],
    store: FeatureStore,
    examples: Examples,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {id: answer} for every text by a trained model, on the accelerator's device."""
    reader = RecordReader(store, accelerator.device)
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    with inference_errors(run.settings.precision):
        return predict(model, reader, examples, run.vocabulary.answers, run.settings, accelerator)


class AnsweringTask(Task[S, nn.Module], Generic[S, Split]):
    """A task that chooses one of its vocabulary's answers to each text about an image."""

    noun: str  # what the texts are, as "questions"
    affirmative: str  # the answer to a text that is true of its image

    def __init__(self, settings: S, *, store: str | Path, data: Path, device: str | None = None):
        """Read both splits, and make the model that training begins with.

        Raises UsageError before any work and where the records do not fit the cache, StoreError for
        a store that cannot be read, and ClipfeatError for data that do not fit it.
        """
        self.store, self.data = FeatureStore.open(store), data
        self.settings, pretrained = find_start(settings, self.store)
        starts = start_files(self.settings)
        self.accelerator = accelerator_on(device, self.settings)
        training = self.read(self.settings.train_split)
        held_out = self.read(self.settings.eval_split) if self.settings.eval_split else None
        if held_out is not None:
            require_apart(self.settings, training.ids, held_out.ids, of=self.noun)
        answers = self.choose_answers(training, held_out)
        words = choose_words(self.settings.model, pretrained, training.texts)
        self.vocabulary = Vocabulary(words, answers)
        self.examples = self.encode(training)
        self.hidden_words = self._choose_hidden_words()
        if self.hidden_words is not None:
            hideable = tuple(words.spelled[token] for token in self.hidden_words.classes)
            self.vocabulary = Vocabulary(words, answers, hideable)
        self.eval_split = None
        image_ids, files = set(self.examples.image_ids), training.files
        if held_out is not None:
            self.eval_split = EvalSplit(held_out, self.encode(held_out))
            image_ids.update(self.eval_split.examples.image_ids)
            files += held_out.files
        self.data_files = (*files, *self.answer_files(), *starts)
        self.reader = RecordReader(self.store, self.accelerator.device, self.settings.cache)
        self.reader.require_room(image_ids, processes=self.accelerator.num_processes)
        with memory_errors(MODEL_SIZE_REMEDY):
            self.model = new_model(
                self.settings, self.store, self.examples.image_ids, self.vocabulary, pretrained
            )
        self.settings = with_chosen_norm(self.settings, self.model)
        self.order = make_order(
            self.examples.image_of_text, self.examples.image_ids, self.store, self.settings
        )

    def _choose_hidden_words(self) -> HiddenWords | None:
        """Return the words of training texts that the model learns to name, if there are any."""
        answers, targets = self.vocabulary.answers, self.examples.targets
        if not self.settings.word_weight or self.affirmative not in answers or targets is None:
            return None
        true = targets.clearly(answers.index(self.affirmative), TRUE)
        chosen = HiddenWords.of(self.examples.tokens, true, self.vocabulary.words)
        return chosen if len(chosen.classes) > 1 else None

    @abstractmethod
    def read(self, split: str) -> Split:
        """Return a split of the data with its answers."""
        ...

    @abstractmethod
    def choose_answers(self, training: Split, held_out: Split | None) -> tuple[str, ...]:
        """Return the classes, given the splits that were read."""
        ...

    def answer_files(self) -> tuple[Path, ...]:
        """Return the files that `choose_answers` reads."""
        return ()

    @abstractmethod
    def encode(self, split: Split) -> Examples:
        """Return a split as numbers, by the task's vocabulary and store."""
        ...

    @abstractmethod
    def answer_loss(
        self, logits: Float[Tensor, "text answer"], targets: Float32[Tensor, "text answer"]
    ) -> Tensor:
        """Return the mean loss of answers, shape ()."""
        ...

    @abstractmethod
    def score(self, split: Split, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the scores of {id: answer} of a split's texts, in percent."""
        ...

    @abstractmethod
    def score_file(
        self, eval_split: EvalSplit[Split], answers: Mapping[Any, str], run: Path, epoch: int
    ) -> Report:
        """Write {id: answer} of a split's texts into the run, and score that file."""
        ...

    def fetch(self, image_ids: Sequence[str]) -> None:
        """Bring the records of images to this machine, unless they are kept in memory."""
        self.reader.fetch(image_ids)

    def batch(self, numbers: Numbers, epoch: int) -> AnswerBatch:
        """Return the texts at `numbers`, and copies with a word hidden; in every epoch the same."""
        hidden = None if self.hidden_words is None else self.hidden_words.hide(numbers)
        answers = len(self.vocabulary.answers)
        return read_batch(self.reader, self.examples, numbers, answers=answers, hidden=hidden)

    def loss(self, model: nn.Module, batch: AnswerBatch) -> Tensor:
        """Return the loss of the answers and of the hidden words, shape ().

        That of the words is their mean over an epoch, times `word_weight`.
        """
        weight = 0.0
        if self.hidden_words is not None:
            weight = self.settings.word_weight / self.hidden_words.copies_per_text
        return answering_loss(model, batch, self.answer_loss, word_weight=weight)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the scores of the answers to the held-out texts."""
        if self.eval_split is None:
            return {}
        return self.score(self.eval_split.split, self._answers(model, self.eval_split.examples))

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Answer the held-out texts, write the answers into the run and score them."""
        if self.eval_split is None:
            return unscored(self.settings, epoch)
        answers = self._answers(model, self.eval_split.examples)
        if not self.accelerator.is_main_process:
            return Report({})
        return self.score_file(self.eval_split, answers, run, epoch)

    def _answers(self, model: nn.Module, examples: Examples) -> dict[int | str, str]:
        classes = self.vocabulary.answers
        return predict(model, self.reader, examples, classes, self.settings, self.accelerator)

    def vocabulary_record(self) -> Mapping[str, Any]:
        """Return the words and the answers."""
        return self.vocabulary.record()


def load_answering_run(
    folder: Path, task: str, settings_type: type[S]
) -> TrainedRun[S, Vocabulary, nn.Module]:
    """Return the best model of a run folder, on the CPU; raises as `load_trained` does."""
    return load_trained(
        folder,
        task,
        settings_type,
        read_vocabulary=read_vocabulary,
        norm="norm",
        build=make_model,
    )


def require_store(run: TrainedRun[S, Vocabulary, nn.Module], store: FeatureStore) -> None:
    """Raise UsageError unless a model can answer texts about the images of a store."""
    require_features(store, run.manifest)
    require_fit(run.settings.model, store)
