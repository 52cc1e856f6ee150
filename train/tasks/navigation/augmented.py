"""The paths that a speaker describes for the follower: of a file, or of the training scans' graphs."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ....base.errors import UsageError
from ....base.text import counted
from ...navigation.augmentation import MAX_NODES, MIN_METRES, MIN_NODES, shortest_path_episodes
from ...navigation.episodes import Episode, check_episodes, read_episodes
from .data import NavigationData
from .settings import NavigationSettings

logger = logging.getLogger(__name__)


def read_augmented(settings: NavigationSettings, data: NavigationData) -> Sequence[Episode]:
    """Return the paths to describe, all in scans of the training split.

    Paths of a file in other scans are left out and counted: the follower is to learn from houses
    that it is trained in. Raises UsageError (E-NAV-AUGMENTED) where nothing is left, and as
    `read_episodes` and `check_episodes` do.
    """
    scans = {name: data.files.scans[name] for name in data.training.read.scans}
    file = settings.back_translation.augmented
    if not file:
        count, seed = settings.back_translation.paths, settings.seed
        episodes = shortest_path_episodes(scans, count=count, seed=seed)
        if not episodes:
            raise UsageError(
                f"the graphs of {counted(len(scans), 'training scan')} have no shortest path of "
                f"{MIN_METRES:g} m or more with {MIN_NODES} to {MAX_NODES} viewpoints; pass a file "
                "of paths: --set back_translation.augmented=FILE",
                code="E-NAV-AUGMENTED",
            )
        return episodes
    split = read_episodes(Path(file), paths_only=True)
    inside = tuple(episode for episode in split.episodes if episode.scan in scans)
    outside = len(split.episodes) - len(inside)
    if not inside:
        raise UsageError(
            f"{file}: none of {counted(outside, 'path')} is in a scan of train_split "
            f"{settings.train_split}; pass paths of these scans, or "
            '--set back_translation.augmented="" to take them from the graphs',
            code="E-NAV-AUGMENTED",
        )
    if outside:
        logger.info(
            f"{file}: {counted(outside, 'path')} left out, in scans that train_split "
            f"{settings.train_split} does not have"
        )
    return check_episodes(dataclasses.replace(split, episodes=inside), scans).episodes
