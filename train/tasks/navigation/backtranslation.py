"""Back-translation with environment dropout (Tan et al. 2019, arXiv 1904.04195, section 3.4).

The follower learns from people's instructions and, as much again, from those that the speaker writes
of other paths. Both see these paths in a house that lacks some channels of all features.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import dropout

from ....base.errors import UsageError
from ....base.text import counted
from ...batches import Numbers
from ...engine import log_once
from ...models.follower import Follower
from ...navigation.environment import Episodes
from ...navigation.episodes import Episode
from ...navigation.words import END, PADDING
from ...run import BEST
from .agents import TrainedAgent
from .data import EpisodeBatch, NavigationData
from .follower import FollowerTask
from .settings import NavigationSettings
from .speaker import TrainedSpeaker, write_texts


class BackTranslationBatch(NamedTuple):
    """Some instructions of the training split, and as many paths to describe."""

    rows: Int64[Tensor, " episode"]
    tokens: Int64[Tensor, "episode token"]
    lengths: Int64[Tensor, " episode"]
    paths: Int64[Tensor, " episode"]  # their places among the paths to describe


class BackTranslationTask(FollowerTask):
    """Train a follower further, on a training split and on paths that a speaker describes."""

    def __init__(
        self,
        settings: NavigationSettings,
        data: NavigationData,
        accelerator: Accelerator,
        follower: TrainedAgent,
        speaker: TrainedSpeaker,
        paths: Sequence[Episode],
    ):
        """Begin with the best models of the stages before; `paths` are those to describe."""
        _require_same_words(data, follower, speaker)
        model = cast(Follower, follower.model)
        super().__init__(settings.back_translating, data, accelerator, model)
        self.speaker = (
            speaker.model.to(accelerator.device).eval().requires_grad_(requires_grad=False)
        )
        log_once(accelerator, f"{counted(len(paths), 'path')} for the speaker to describe")
        self.paths: Episodes = data.environment.episodes(
            [path.scan for path in paths],
            [path.path for path in paths],
            [path.heading for path in paths],
        )
        self.data_files = [*self.data_files, follower.folder / BEST, speaker.folder / BEST]
        if augmented := settings.back_translation.augmented:
            self.data_files.append(Path(augmented))

    def settings_record(self) -> dict[str, Any]:
        """Return all settings: the stages before are part of what this one is."""
        return dataclasses.asdict(self.settings)

    def batch(self, numbers: Numbers, epoch: int) -> BackTranslationBatch:
        """Return the instructions at `numbers`, with a path to describe for each.

        The paths follow from the seed, `epoch` and the numbers alone, whatever parts a batch is
        computed in.
        """
        drawn = np.random.default_rng((self.settings.seed, epoch)).integers(
            len(self.paths), size=len(self.world.training)
        )
        return BackTranslationBatch(
            *super().batch(numbers, epoch), paths=torch.from_numpy(drawn[numbers])
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a BackTranslationBatch: on people's instructions and the speaker's.

        The former has the follower's ordinary feature dropout; the weights of teacher forcing differ.
        """
        instructions = EpisodeBatch(batch.rows, batch.tokens, batch.lengths)
        episodes = self.world.training.tensors.take(batch.rows)
        described = self.paths.take(batch.paths)
        kept = self.draw_environment()
        written = self.written(described, batch.paths, kept)
        weight = self.settings.back_translation.teacher_weight

        def both(follower: Follower) -> Tensor:
            by_people = self.rollout_loss(
                follower, episodes, instructions, teacher_weight=self.settings.teacher_weight
            )
            by_speaker = self.rollout_loss(
                follower, described, written, teacher_weight=weight, kept=kept
            )
            return by_people + by_speaker

        return model(both)

    def draw_environment(self) -> Float[Tensor, " dim"]:
        """Return what multiplies the channels of all features: 0 for some, else 1 / (1 - share)."""
        channels = torch.ones(self.world.norm.channels, device=self.world.environment.device)
        return dropout(channels, self.settings.back_translation.env_dropout)

    def written(
        self,
        paths: Episodes,
        numbers: Int64[Tensor, " episode"],
        kept: Float[Tensor, " dim"],
    ) -> EpisodeBatch:
        """Return the speaker's instructions for paths; one that was cut off ends at its last word."""
        words = self.world.written
        with self.accelerator.autocast():
            tokens = write_texts(
                self.speaker,
                self.world.environment,
                paths,
                words,
                self.settings.speaker.max_words,
                kept,
            )
        last = tokens[:, -1]
        tokens[:, -1] = torch.where(last == PADDING, last, END)
        tokens = torch.cat([torch.full_like(tokens[:, :1], words.begin), tokens], 1)
        return EpisodeBatch(numbers, tokens, (tokens != PADDING).sum(1))


def _require_same_words(
    data: NavigationData, follower: TrainedAgent, speaker: TrainedSpeaker
) -> None:
    """Raise UsageError (E-NAV-WORDS) unless all read and write the same words."""
    for run in (follower, speaker):
        if run.vocabulary != data.words:
            raise UsageError(
                f"{run.folder} has other words than the instructions of train_split have; train it on "
                "the same data",
                code="E-NAV-WORDS",
            )
