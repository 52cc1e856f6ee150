"""The model that the settings name."""

from torch import nn

from ..normalize import FeatureNorm
from .settings import ModelSettings, UpDnSettings
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
        case _:
            raise NotImplementedError(settings.name)
