"""Agents that follow instructions: loaded from a run, by the settings of their model."""

from functools import partial
from pathlib import Path

from torch import nn

from ....base.errors import UsageError
from ...checkpoint import TrainedRun, load_trained
from ...models.navigation_settings import EnvDropSettings, MapSettings
from ...navigation.environment import Environment
from ...navigation.words import InstructionVocabulary, read_instruction_vocabulary
from ...normalize import FeatureNorm
from ...stages import last_stage
from .follower import make_follower
from .map import explore, make_map_agent
from .rollout import follow
from .settings import WALKERS, NavigationSettings
from .task import TASK, Walk

TrainedAgent = TrainedRun[NavigationSettings, InstructionVocabulary, nn.Module]


def make_agent(
    settings: NavigationSettings, norm: FeatureNorm, words: InstructionVocabulary
) -> nn.Module:
    """Return an agent of random weights."""
    match settings.model:
        case EnvDropSettings():
            return make_follower(settings, norm, words)
        case MapSettings():
            return make_map_agent(settings, norm, words)


def walk_of(
    settings: NavigationSettings, environment: Environment, *, forbid_visited: bool
) -> Walk:
    """Return how an agent with these settings walks; `forbid_visited` is as in `follow`.

    Raises UsageError (E-NAV-VISITED) for `forbid_visited` with the map agent.
    """
    match settings.model:
        case EnvDropSettings():
            return partial(
                follow,
                environment=environment,
                max_actions=settings.max_actions,
                forbid_visited=forbid_visited,
            )
        case MapSettings():
            if forbid_visited:
                raise UsageError(
                    "--forbid-visited is for the follower: model map chooses among unvisited viewpoints "
                    "anyway, and turns back through visited ones; drop it",
                    code="E-NAV-VISITED",
                )
            return partial(explore, environment=environment, max_actions=settings.max_actions)


def load_run(folder: Path) -> TrainedAgent:
    """Return the best model of a run, of its last stage whose model walks, or of a stage's folder.

    Raises UsageError as `last_stage` and `load_trained` do.
    """
    return load_trained(
        last_stage(folder, WALKERS, of="navigation"),
        TASK,
        NavigationSettings,
        read_vocabulary=read_instruction_vocabulary,
        norm="norm",
        build=make_agent,
    )
