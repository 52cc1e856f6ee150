"""The model that the settings name."""

from torch import nn

from ..grids.normalize import FeatureNorm
from .mcan import Mcan
from .movie_mcan import MovieMcan
from .pythia import Pythia
from .settings import (
    McanSettings,
    ModelSettings,
    MovieMcanSettings,
    PythiaSettings,
    SingleStreamSettings,
    UpDnSettings,
)
from .updn import UpDn


def build_model(
    settings: ModelSettings, norm: FeatureNorm, *, tokens: int, answers: int
) -> nn.Module:
    """Return a new model: called with the inputs of a `GroundedBatch`, it returns `Outputs`.

    `tokens` is the number of tokens there are, `answers` that of the classes to choose from.
    """
    match settings:
        case UpDnSettings():
            return UpDn(settings, norm, tokens=tokens, answers=answers)
        case PythiaSettings():
            return Pythia(settings, norm, tokens=tokens, answers=answers)
        case McanSettings():
            return Mcan(settings, norm, tokens=tokens, answers=answers)
        case MovieMcanSettings():
            return MovieMcan(settings, norm, tokens=tokens, answers=answers)
        case SingleStreamSettings():
            from .single_stream import SingleStream  # whose BERT takes seconds to import

            return SingleStream(settings, norm, tokens=tokens, answers=answers)
