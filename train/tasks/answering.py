"""Choosing an answer to a text about an image: what VQA and visual entailment share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from ...featstore import FeatureStore
from ..batches import Numbers
from ..checkpoint import TrainedRun, load_trained
from ..data.vocabulary import PADDING, TextVocabulary, Vocabulary, read_vocabulary
from ..devices import MODEL_SIZE_REMEDY, inference_errors, memory_errors
from ..engine import each_batch, eval_batch_size
from ..models.layers import AnswerBatch
from ..models.pretrained import Pretrained
from ..models.settings import AnsweringSettings
from ..models.start import make_model, new_model, require_grid_side, start_files
from ..records import RecordReader
from ..run import require_features
from ..settings import LoopSettings
from ..task import Report, Task, make_order

S = TypeVar("S", bound=AnsweringSettings)


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
    reader: RecordReader, examples: Examples, numbers: Numbers, *, answers: int
) -> AnswerBatch:
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
    return AnswerBatch(*records, *(reader.pinned(tensor) for tensor in small))


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
    order = np.argsort(examples.image_of_text, kind="stable")  # a record is read once
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    size = eval_batch_size(settings)
    for numbers, batch in each_batch(order, read, accelerator, size=size, doing="answering"):
        logits = model(batch).logits
        best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
    # Each text is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        example_id: answers[number] for example_id, number in zip(examples.ids, chosen, strict=True)
    }


def make_examples(
    ids: Sequence[int | str],
    images: Sequence[str],
    texts: Sequence[str],
    targets: SoftAnswers | None,
    *,
    words: TextVocabulary,
    max_tokens: int,
) -> Examples:
    """Return texts as numbers, each with the store's id of its image."""
    image_ids, image_of_text = np.unique(np.array(images), return_inverse=True)
    return Examples(
        ids=tuple(ids),
        image_ids=tuple(image_ids.tolist()),
        image_of_text=image_of_text,
        tokens=words.encode(texts, max_tokens=max_tokens),
        targets=targets,
    )


def predict_with(
    run: TrainedRun[S, Vocabulary, nn.Module],
    reader: RecordReader,
    examples: Examples,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {id: answer} for every text by a trained model, on the accelerator's device."""
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    with inference_errors(run.settings.precision):
        return predict(model, reader, examples, run.vocabulary.answers, run.settings, accelerator)


class AnsweringTask(Task[S, nn.Module]):
    """A task that chooses one of its vocabulary's answers to each text about an image."""

    def __init__(
        self,
        settings: S,
        *,
        store: FeatureStore,
        data: Path,
        files: Sequence[Path],
        vocabulary: Vocabulary,
        pretrained: Pretrained | None,
        examples: Examples,
        held_out: Examples | None,
        accelerator: Accelerator,
    ):
        """Make the model that training begins with; `held_out` are what it is scored on.

        `files` are those of the data, and `pretrained` is what the model starts from. Raises
        UsageError where the records do not fit the cache.
        """
        self.settings, self.store, self.data = settings, store, data
        self.vocabulary, self.accelerator = vocabulary, accelerator
        self.examples, self.held_out = examples, held_out
        self.reader = RecordReader(store, accelerator.device, settings.cache)
        image_ids = {*examples.image_ids, *(held_out.image_ids if held_out else ())}
        self.reader.require_room(image_ids, processes=accelerator.num_processes)
        with memory_errors(MODEL_SIZE_REMEDY):
            self.model = new_model(settings, store, examples.image_ids, vocabulary, pretrained)
        self.data_files = (*files, *start_files(settings))
        self.order = make_order(examples.image_of_text, examples.image_ids, store, settings)

    def batch(self, numbers: Numbers, epoch: int) -> AnswerBatch:
        """Return the texts at `numbers`, in every epoch the same."""
        return read_batch(self.reader, self.examples, numbers, answers=len(self.vocabulary.answers))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the scores of the answers to the held-out texts."""
        return {} if self.held_out is None else self.score(self._answers(model, self.held_out))

    @abstractmethod
    def score(self, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the scores of {id: answer} of the held-out texts, in percent."""
        ...

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Answer the held-out texts, write the answers into the run and score them."""
        if self.held_out is None:
            return Report({"split": "", "epoch": epoch, "blind": self.settings.blind})
        answers = self._answers(model, self.held_out)
        return (
            self.score_file(answers, run, epoch) if self.accelerator.is_main_process else Report({})
        )

    @abstractmethod
    def score_file(self, answers: Mapping[Any, str], run: Path, epoch: int) -> Report:
        """Write {id: answer} of the held-out texts into the run, and score that file."""
        ...

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
    require_grid_side(run.settings.model, store)
