"""The best model of a captioning run."""

import functools
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import UsageError
from ..grids.normalize import ChannelStatistics, FeatureNorm, statistics_of
from ..loop.checkpoint import read_checkpoint, rebuild
from ..runs.folder import BEST, SETTINGS, VOCABULARY, RunCard, find_best, read_card, require_no_link
from ..runs.jsonfile import field
from ..settings import settings_of
from .data.tokens import CaptionVocabulary
from .data.vocabulary import read_vocabulary
from .models.build import build_captioner
from .models.captioner import Captioner
from .settings import STAGES, CaptionSettings

TASK = "caption"


@dataclass(frozen=True)
class TrainedCaptioner:
    """The best model of a stage, on the CPU, with all that writing captions takes."""

    folder: Path
    model: Captioner
    vocabulary: CaptionVocabulary
    settings: CaptionSettings
    card: RunCard
    epoch: int  # of the checkpoint


def make_model(
    settings: CaptionSettings, statistics: ChannelStatistics, vocabulary: CaptionVocabulary
) -> Captioner:
    """Return a model of random weights."""
    norm = FeatureNorm(statistics, blind=settings.blind)
    return build_captioner(settings.model, norm, words=vocabulary.size)


def find_stage(run: Path) -> Path:
    """Return the folder of a run's last stage that has a model; a stage's folder is itself one.

    Raises UsageError where there is none.
    """
    if (run / SETTINGS).is_file():
        return run
    for stage in reversed(STAGES):
        require_no_link(run / stage)  # predictions will be written there
        if (run / stage / BEST).is_file():
            return run / stage
    raise UsageError(
        f"{run} holds no captioning run with a model: neither "
        f"{' nor '.join(str(run / stage / BEST) for stage in STAGES)} is there"
    )


def load_stage(folder: Path) -> TrainedCaptioner:
    """Return the best model of a stage's folder.

    Raises UsageError where it is no captioning run, or has no checkpoint yet.
    """
    card = read_card(folder)
    if card.task != TASK:
        raise UsageError(f"{folder} is a run of task {card.task!r}, not {TASK}")
    path = find_best(folder)
    settings = settings_of(CaptionSettings, card.settings)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    tensors, state = read_checkpoint(path)
    statistics = statistics_of(tensors, "model.cells.norm", path)
    build = functools.partial(make_model, settings, statistics, vocabulary)
    model = rebuild(build, tensors, path)
    return TrainedCaptioner(
        folder, model, vocabulary, settings, card, field(state, "epoch", int, path)
    )
