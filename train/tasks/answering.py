"""Texts about images, as numbers, and batches of them with the images' grids."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..batches import Order
from ..checkpoint import read_checkpoint, rebuild
from ..data.vocabulary import PADDING, TextVocabulary, Vocabulary, read_vocabulary
from ..devices import memory_errors
from ..engine import each_batch, make_card, open_run, part_size, require_features, train
from ..jsonfile import field, write_json
from ..log import LoopTimes
from ..models.pretrained import Pretrained
from ..models.settings import GroundedSettings
from ..models.start import make_model, new_model, require_grid_side, start_files
from ..pictures.curves import draw_curves
from ..records import RecordReader, statistics_of
from ..run import CURVES, RESULT, SCORES, VOCABULARY, RunCard, find_best, read_card
from ..settings import LoopSettings, SplitSettings, settings_of


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
    read = functools.partial(read_batch, reader, examples, answers=len(answers))
    order = np.argsort(examples.image_of_text, kind="stable")  # a record is read once
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    size = part_size(settings)
    for numbers, batch in each_batch(order, read, accelerator, size=size, doing="answering"):
        logits = model(*batch.inputs).logits
        best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
    # Each text is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        example_id: answers[number] for example_id, number in zip(examples.ids, chosen, strict=True)
    }


Predictions = Mapping[Any, str]  # {example id: answer}
S = TypeVar("S", bound=GroundedSettings)


@dataclass(frozen=True)
class Inputs:
    """What a run learns from."""

    task: str
    features: FeatureStore
    data: Path  # folder
    files: tuple[Path, ...]  # with other contents it would be another run
    vocabulary: Vocabulary
    pretrained: Pretrained | None  # what the model starts from
    examples: Examples
    scored: Examples | None  # of the split that scores the model


@dataclass(frozen=True)
class Trained(Generic[S]):
    """The best model of a run, with all that answering takes."""

    folder: Path
    model: nn.Module
    vocabulary: Vocabulary
    settings: S
    card: RunCard
    epoch: int  # of the checkpoint

    def require_store(self, store: FeatureStore) -> None:
        """Raise UsageError unless the model can be asked about the images of a store."""
        require_features(store, self.card)
        require_grid_side(self.settings.model, store)


def make_examples(
    ids: Sequence[int | str],
    images: Sequence[str],
    texts: Sequence[str],
    targets: Targets | None,
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


def require_apart(
    settings: SplitSettings, trained_on: Collection[Any], held_out: Collection[Any], *, of: str
) -> None:
    """Raise UsageError where the split that scores the model shares examples with training.

    CLIP-ViL's MCAN was validated on questions that it was trained on.
    """
    shared = set(trained_on).intersection(held_out)
    if shared:
        raise UsageError(
            f"eval_split {settings.eval_split} shares {len(shared):,} {of} with train_split "
            f"{settings.train_split}, so that its score would mean nothing; "
            'pass --set eval_split="" to train without one'
        )


def train_grounded(
    inputs: Inputs,
    settings: GroundedSettings,
    *,
    run: Path,
    accelerator: Accelerator,
    loss_of: Callable[[nn.Module, GroundedBatch], Tensor],
    score: Callable[[Predictions], Mapping[str, float]] | None,
) -> tuple[RecordReader, LoopTimes]:
    """Train a model, or go on, until `run` holds its best checkpoint.

    `score` takes what the model answers to `inputs.scored` after each epoch; both are there or
    neither is. Returns the reader, which may have records cached, and the times. Raises
    UsageError before the run is made.
    """
    examples, scored, answers = inputs.examples, inputs.scored, inputs.vocabulary.answers
    reader = RecordReader(inputs.features, accelerator.device, settings.cache)
    ids = {*examples.image_ids, *(scored.image_ids if scored else ())}
    reader.require_room(ids, processes=accelerator.num_processes)
    with memory_errors("the model does not fit; lower its sizes, such as model.hidden"):
        model = new_model(
            settings, inputs.features, examples.image_ids, inputs.vocabulary, inputs.pretrained
        )
    card = make_card(
        inputs.task,
        settings,
        store=inputs.features,
        data=inputs.data,
        files=(*inputs.files, *start_files(settings)),
    )

    def evaluate(
        score: Callable[[Predictions], Mapping[str, float]], scored: Examples, model: nn.Module
    ) -> Mapping[str, float]:
        return score(predict(model, reader, scored, answers, settings, accelerator))

    with open_run(run, card, inputs.vocabulary, accelerator):
        times = train(
            model,
            settings,
            run=run,
            accelerator=accelerator,
            order=make_order(examples.image_of_text, examples.image_ids, inputs.features, settings),
            read_batch=lambda numbers, epoch: read_batch(
                reader, examples, numbers, answers=len(answers)
            ),
            loss_of=loss_of,
            evaluate=functools.partial(evaluate, score, scored) if score and scored else None,
        )
    return reader, times


def write_results(run: Path, result: Mapping[str, Any], scores: Mapping[str, Any] | None) -> None:
    """Write what a run has come to: its result, its score of each example, its curves."""
    write_json(run / RESULT, result)
    if scores is not None:
        write_json(run / SCORES, scores)
    draw_curves(run, run / CURVES)


def load_trained(run: Path, task: str, kind: type[S]) -> Trained[S]:
    """Return the best model of a run folder, on the CPU.

    Raises UsageError where the folder is no run of the task or has no checkpoint yet.
    """
    card = read_card(run)
    if card.task != task:
        raise UsageError(f"{run} is a run of task {card.task!r}, not {task}")
    path = find_best(run)
    settings = settings_of(kind, card.settings)
    vocabulary = read_vocabulary(run / VOCABULARY)
    tensors, state = read_checkpoint(path)
    statistics = statistics_of(tensors, "model.norm", path)
    build = functools.partial(make_model, settings, statistics, vocabulary)
    model = rebuild(build, tensors, path)
    epoch = field(state, "epoch", int, path)
    return Trained(run, model, vocabulary, settings, card, epoch)
