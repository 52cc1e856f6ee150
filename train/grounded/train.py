"""Training a model that chooses an answer to a text about an image: what such tasks share."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..grids.normalize import statistics_of
from ..grids.records import RecordReader
from ..loop.checkpoint import read_checkpoint, rebuild
from ..loop.devices import memory_errors
from ..loop.profile import LoopTimes
from ..loop.run import make_card, open_run, require_features
from ..loop.train import train
from ..models.pretrained import Pretrained
from ..pictures.curves import draw_curves
from ..runs.folder import (
    CURVES,
    RESULT,
    SCORES,
    VOCABULARY,
    RunCard,
    find_best,
    read_card,
)
from ..runs.jsonfile import field, write_json
from ..settings import SplitSettings, settings_of
from ..texts.pieces import WordPieces
from ..texts.vocabulary import Vocabulary, read_vocabulary
from ..texts.words import Words
from .examples import Examples, GroundedBatch, Targets, make_order, read_batch
from .predict import predict
from .settings import GroundedSettings
from .start import make_model, new_model, require_places, start_files

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
        require_places(self.settings.model, store)


def make_examples(
    ids: Sequence[int | str],
    images: Sequence[str],
    texts: Sequence[str],
    targets: Targets | None,
    *,
    words: Words | WordPieces,
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
