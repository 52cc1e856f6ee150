"""The run that a model starts from, and the weights that it takes over."""

import dataclasses
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from ...base.jsonio import field
from ...featstore import FeatureStore
from ..checkpoint import read_checkpoint
from ..data.vocabulary import Vocabulary, read_vocabulary
from ..normalize import Statistics, statistics_of
from ..run import (
    VOCABULARY,
    RunManifest,
    describe_differences,
    features_of,
    find_best,
    read_manifest,
)
from ..settings import NormSettings, settings_of
from .bert import short_reason
from .layers import AnswerHead
from .settings import ModelSettings, SingleStreamSettings, TextTaskSettings

logger = logging.getLogger(__name__)

TASK = "pretrain"
ANSWERING = ("vqa", "ve")  # tasks whose runs have one model with a row for each class
LAST = "3."  # prefix of the last layer of an answer head, which has a row for each answer
# As torch names the parts of a weight-normed matrix, which is length * direction / norm(direction).
LENGTH, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


@runtime_checkable
class StartedSettings(Protocol):
    """The settings of a task that may start from a run."""

    @property
    def init(self) -> str: ...

    @property
    def model(self) -> Any: ...


def require_init(init: str) -> None:
    """Raise UsageError (E-INIT-FOLDER) where the run to start from does not exist."""
    if not os.path.lexists(init):
        raise UsageError(
            f"init {init}, the run to start from, does not exist; pass --init RUN with "
            "the folder of a run",
            code="E-INIT-FOLDER",
        )


def require_own_model(settings: StartedSettings, model: Any) -> None:
    """Raise UsageError where settings name another model than that of the run they start from."""
    if settings.model not in (type(settings)().model, model):
        trained, named = (dataclasses.asdict(each) for each in (model, settings.model))
        raise UsageError(
            f"init {settings.init} determines the model, and the settings name another: "
            f"{describe_differences(trained, named)}; leave out model",
            code="E-INIT-MODEL",
        )


def require_features_of(
    store: FeatureStore, folder: Path, manifest: RunManifest, *, channels: int
) -> None:
    """Raise UsageError unless a store's features have the backbone and width of a run to start from.

    `channels` are those of the run's features. Another recipe may be intended, such as larger images
    for fine-tuning, and is logged.
    """
    trained, given = manifest.features, features_of(store)
    backbone, recipe, cells = (
        describe_differences({part: trained.get(part)}, {part: given.get(part)})
        for part in ("backbone", "recipe", "regions")
    )
    if cells:
        kinds = ("regions", "grids") if manifest.regions else ("grids", "regions")
        raise UsageError(
            f"init {folder} was trained on {kinds[0]}, and {store.location} has {kinds[1]}; "
            "start from a run on such features",
            code="E-INIT-FEATURES",
        )
    if backbone:
        raise UsageError(
            f"init {folder} was trained on features of another backbone than those of "
            f"{store.location}: {backbone}; extract these images with that backbone",
            code="E-INIT-FEATURES",
        )
    if channels != store.dim:
        raise UsageError(
            f"init {folder} was trained on features of {channels} channels, and those of "
            f"{store.location} have {store.dim}; extract these images in the same way",
            code="E-INIT-FEATURES",
        )
    if recipe:
        logger.info(f"init {folder} was trained on another recipe: {recipe}")


@dataclass(frozen=True)
class Pretrained:
    """The best checkpoint of a run, with what a model needs to start from it."""

    folder: Path
    manifest: RunManifest
    settings: ModelSettings
    vocabulary: Vocabulary
    tensors: dict[str, Tensor]
    norm: NormSettings
    statistics: Statistics  # of the features that the run was trained on
    epoch: int

    def has(self, name: str) -> bool:
        """Return whether the run's model has a part of that name."""
        return any(tensor.startswith(f"model.{name}.") for tensor in self.tensors)

    def fill(self, part: nn.Module, name: str) -> None:
        """Copy the weights of the run's part `name` into a part of a model.

        Raises UsageError where the run's model has no such part, or one of another size.
        """
        prefix = f"model.{name}."
        state = {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(
                f"init {self.folder}: its {name} does not fit ({short_reason(error)})",
                code="E-INIT-FIT",
            ) from None

    @torch.no_grad()
    def fill_answers(self, head: AnswerHead, answers: Sequence[str]) -> int:
        """Copy the run's weights into a head for `answers`; return how many of them it knew.

        A new answer's row is zero, as in LXMERT. A run without answers changes nothing.
        """
        known = {answer: row for row, answer in enumerate(self.vocabulary.answers)}
        pairs = [(row, known[answer]) for row, answer in enumerate(answers) if answer in known]
        if not pairs:
            return 0
        assert isinstance(self.settings, SingleStreamSettings)
        source = AnswerHead(self.settings.hidden, len(known))
        self.fill(source, "answer")
        rows, source_rows = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
        weights = source.state_dict()
        for name, tensor in head.state_dict().items():
            if name.startswith(LAST):
                tensor.zero_()
                tensor[rows] = weights[name][source_rows]
            else:
                tensor.copy_(weights[name])
        return len(pairs)

    @torch.no_grad()
    def fill_model(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        *,
        of_tokens: Collection[str],
        of_classes: Collection[str],
    ) -> None:
        """Copy the weights of an answering run into its model for another vocabulary.

        `of_tokens` and `of_classes` are the names of the tensors with a row for each of them. The
        first tokens of the vocabulary must be those of the run. Rows of tokens and classes that
        the run does not have stay as they are. Raises UsageError where the run's weights do not fit.
        """
        known = {each: row for row, each in enumerate(_classes(self.vocabulary))}
        wanted = enumerate(_classes(vocabulary))
        pairs = [(row, known[each]) for row, each in wanted if each in known]
        rows, source_rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
        try:
            state = {name: self.tensors[f"model.{name}"] for name in model.state_dict()}
            for name, fresh in model.state_dict().items():
                if name in of_tokens:
                    state[name] = torch.cat((state[name], fresh[len(state[name]) :]))
                elif name in of_classes:
                    own = state[name]
                    state[name] = fresh.index_copy(0, rows, own[source_rows])
                    if name.endswith(DIRECTION):  # known rows stay, though the norm is another
                        length = name.removesuffix(DIRECTION) + LENGTH
                        state[length] = state[length] * (state[name].norm() / own.norm())
            model.load_state_dict(state)
        except (KeyError, IndexError, RuntimeError) as error:
            raise UsageError(
                f"init {self.folder}: its weights do not fit its settings ({short_reason(error)})",
                code="E-INIT-FIT",
            ) from None


def _classes(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the classes of a model, in their order: an answer may be a hideable word, too."""
    answers = [("answer", answer) for answer in vocabulary.answers]
    return [*answers, *(("word", word) for word in vocabulary.hideable)]


def load_pretrained(folder: Path, tasks: Sequence[str] = (TASK,)) -> Pretrained:
    """Return the best model of a run of one of `tasks`; UsageError for any other folder."""
    manifest = read_manifest(folder)
    if manifest.task not in tasks:
        raise UsageError(
            f"{folder} is a run of task {manifest.task!r}, not {' or '.join(tasks)}",
            code="E-RUN-TASK",
        )
    path = find_best(folder)
    model = field(manifest.settings, "model", dict, folder)
    norm = NormSettings(
        norm=field(manifest.settings, "norm", str, folder),
        components=field(manifest.settings, "components", int, folder),
        whitening=field(manifest.settings, "whitening", float, folder),
    )
    if manifest.task == TASK:
        settings = settings_of(SingleStreamSettings, model, "model.")
    else:
        settings = settings_of(TextTaskSettings, {"model": model}).model
    tensors, state = read_checkpoint(path)
    return Pretrained(
        folder,
        manifest,
        settings,
        read_vocabulary(folder / VOCABULARY),
        tensors,
        norm,
        statistics_of(
            tensors, "model.norm", path, norm=norm["norm"], components=norm["components"]
        ),
        field(state, "epoch", int, path),
    )
