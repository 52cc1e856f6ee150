"""The encoder of a pre-training run, as the start of another model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from ...base.jsonio import field
from ...featstore import FeatureStore
from ..checkpoint import read_checkpoint
from ..data.vocabulary import Vocabulary, read_vocabulary
from ..records import ChannelStatistics, statistics_of
from ..run import VOCABULARY, RunManifest, features_of, find_best, read_manifest
from ..settings import settings_of
from .layers import AnswerHead
from .settings import SingleStreamSettings

logger = logging.getLogger(__name__)

TASK = "pretrain"
LAST = "3."  # the last layer of an answer head, which has a row for each answer


@dataclass(frozen=True)
class Pretrained:
    """The best checkpoint of a pre-training run, and all that starting from it takes."""

    folder: Path
    manifest: RunManifest
    settings: SingleStreamSettings
    vocabulary: Vocabulary
    tensors: dict[str, Tensor]
    statistics: ChannelStatistics  # the scale that features had
    epoch: int

    def require_features_of(self, store: FeatureStore) -> None:
        """Raise UsageError unless a store's features are of the backbone and width of pre-training.

        Another recipe may be meant, as a larger size for fine-tuning is, and gets a remark.
        """
        theirs, ours = self.manifest.features, features_of(store)
        told = {part: f"{theirs.get(part)!r}, and {store.path} has {ours[part]!r}" for part in ours}
        if theirs.get("backbone") != ours["backbone"]:
            raise UsageError(
                f"init {self.folder} was trained on features of another backbone: "
                f"{told['backbone']}; extract these images with that backbone"
            )
        if len(self.statistics.mean) != store.dim:
            raise UsageError(
                f"init {self.folder} was trained on features of {len(self.statistics.mean)} channels, "
                f"and those of {store.path} have {store.dim}; extract these images as it was"
            )
        if theirs.get("recipe") != ours["recipe"]:
            logger.info(
                f"init {self.folder} was trained on another recipe: {told['recipe']}",
            )

    def has(self, name: str) -> bool:
        """Return whether the run's model has a part of that name."""
        return any(tensor.startswith(f"model.{name}.") for tensor in self.tensors)

    def fill(self, part: nn.Module, name: str) -> None:
        """Give a part of a model the weights of the run's part of that name.

        Raises UsageError where the run's model has no such part, or one of another size.
        """
        prefix = f"model.{name}."
        found = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
        try:
            part.load_state_dict(found)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"init {self.folder}: its {name} does not fit ({reason:.200})"
            ) from None

    @torch.no_grad()
    def fill_answers(self, head: AnswerHead, answers: Sequence[str]) -> int:
        """Start a head for `answers` from the run's; return how many of them it knew.

        A new answer's row is zero, as in LXMERT. A run that answered no questions gives nothing.
        """
        known = {answer: row for row, answer in enumerate(self.vocabulary.answers)}
        pairs = [(row, known[answer]) for row, answer in enumerate(answers) if answer in known]
        if not pairs:
            return 0
        theirs = AnswerHead(self.settings.hidden, len(known))
        self.fill(theirs, "answer")
        rows, sources = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
        weights = theirs.state_dict()
        for name, tensor in head.state_dict().items():
            if name.startswith(LAST):
                tensor.zero_()
                tensor[rows] = weights[name][sources]
            else:
                tensor.copy_(weights[name])
        return len(pairs)


def load_pretrained(folder: Path) -> Pretrained:
    """Return what a pre-training run has learned; UsageError where the folder is no such run."""
    manifest = read_manifest(folder)
    if manifest.task != TASK:
        raise UsageError(f"{folder} is a run of task {manifest.task!r}, not {TASK}")
    path = find_best(folder)
    model = field(manifest.settings, "model", dict, folder)
    settings = settings_of(SingleStreamSettings, model, "model.")
    tensors, state = read_checkpoint(path)
    return Pretrained(
        folder,
        manifest,
        settings,
        read_vocabulary(folder / VOCABULARY),
        tensors,
        statistics_of(tensors, "model.norm", path),
        field(state, "epoch", int, path),
    )
