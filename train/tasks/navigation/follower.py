"""EnvDrop's follower: teacher forcing and advantage actor-critic, in one pass over a batch."""

import dataclasses
from typing import Any, cast

import numpy as np
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...devices import MODEL_SIZE_REMEDY, memory_errors, seeded
from ...models.follower import Follower
from ...models.navigation_settings import EnvDropSettings
from ...navigation.environment import Episodes
from ...navigation.words import InstructionVocabulary
from ...normalize import FeatureNorm
from .data import EpisodeBatch, NavigationData, Split
from .rollout import follow, rollout_loss
from .settings import NavigationSettings
from .task import NavigationTask


def make_follower(
    settings: NavigationSettings, norm: FeatureNorm, words: InstructionVocabulary
) -> Follower:
    """Return a follower of random weights."""
    return Follower(cast(EnvDropSettings, settings.model), norm, words=words.size)


def follower_record(settings: NavigationSettings) -> dict[str, Any]:
    """Return the settings that make a first stage the run it is: not those of the others."""
    record = dataclasses.asdict(settings)
    del record["speaker"], record["back_translation"]
    return record


class FollowerTask(NavigationTask):
    """Train EnvDrop's follower.

    The first half of a batch follows the teacher, the second half its own samples. As published,
    where teacher forcing takes one batch and sampling the next one.
    """

    def __init__(
        self,
        settings: NavigationSettings,
        data: NavigationData,
        accelerator: Accelerator,
        model: Follower | None = None,
    ):
        """Begin with `model`, without one with random weights, the same ones every time."""
        if model is None:
            with memory_errors(MODEL_SIZE_REMEDY), seeded(settings.seed):
                model = make_follower(settings, data.norm, data.words)
        super().__init__(settings, data, accelerator, model)

    def settings_record(self) -> dict[str, Any]:
        """Return the settings without those of the other stages."""
        return follower_record(self.settings)

    def loss(self, model: nn.Module, batch: EpisodeBatch) -> Tensor:
        """Return the loss of a batch, shape ()."""
        episodes = self.world.training.tensors.take(batch.rows)
        weight = self.settings.teacher_weight
        return model(
            lambda follower: self.rollout_loss(follower, episodes, batch, teacher_weight=weight)
        )

    def rollout_loss(
        self,
        follower: Follower,
        episodes: Episodes,
        batch: EpisodeBatch,
        *,
        teacher_weight: float,
        kept: Float[Tensor, " dim"] | None = None,
    ) -> Tensor:
        """Return the loss of rollouts of some episodes, as the function of this name has it."""
        return rollout_loss(
            follower,
            self.world.environment,
            episodes,
            batch,
            self.settings,
            teacher_weight=teacher_weight,
            kept=kept,
        )

    def walk(self, model: Follower, split: Split, rows: Int[np.ndarray, " _"]) -> list[list[int]]:
        """Return the walks of a follower that takes the likeliest action at each step."""
        environment, longest = self.world.environment, self.settings.max_actions
        return follow(model, split, rows, environment, max_actions=longest)
