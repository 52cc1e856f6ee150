"""The model that the settings name."""

from torch import nn

from ..normalize import ChannelStatistics, FeatureNorm
from .data import Vocabulary
from .settings import VqaSettings
from .updn import UpDn


def build_model(
    settings: VqaSettings, vocabulary: Vocabulary, statistics: ChannelStatistics
) -> nn.Module:
    """Return a new model: called with the inputs of a `VqaBatch`, it returns (logits, attention).

    Logits are (question, answer); attention weights are (question, cell).
    """
    return UpDn(
        FeatureNorm(statistics, blind=settings.blind),
        tokens=vocabulary.tokens,
        answers=len(vocabulary.answers),
        embedding=settings.embedding,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )
