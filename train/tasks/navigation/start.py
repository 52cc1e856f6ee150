"""What an agent reads in place of its own words: word pieces, with a pre-trained encoder or without."""

import dataclasses
import logging
from pathlib import Path
from typing import cast

from ....base.errors import UsageError
from ....base.jsonio import field
from ....base.text import counted
from ...data.vocabulary import WordPieces, read_pieces
from ...models.map_agent import MapAgent, PieceReader
from ...models.navigation_settings import MapSettings
from ...models.pretrained import Pretrained, load_pretrained, require_init
from ...models.settings import SingleStreamSettings
from ...models.start import require_own_sizes
from .settings import NavigationSettings

logger = logging.getLogger(__name__)


def find_start(settings: NavigationSettings) -> tuple[NavigationSettings, Pretrained | None]:
    """Return the settings with the sizes of the text encoder that `init` has, and that run.

    Raises UsageError if `init` is not a run of pre-training, has fewer layers than the settings name,
    or if they name other sizes.
    """
    if not settings.init:
        return settings, None
    require_init(settings.init)
    start = load_pretrained(Path(settings.init))
    require_own_sizes(start)
    own, model = cast(SingleStreamSettings, start.settings), cast(MapSettings, settings.model)
    for name, wanted, size in (
        ("text_hidden", model.text_hidden, own.hidden),
        ("text_heads", model.text_heads, own.heads),
    ):
        if wanted not in (0, size):
            raise UsageError(
                f"init {settings.init} determines model.{name}, which is {size} there; got {wanted}; "
                "leave it out",
                code="E-INIT-MODEL",
            )
    if model.text_layers > own.layers:
        raise UsageError(
            f"init {settings.init} has {counted(own.layers, 'layer')}, and model.text_layers is "
            f"{model.text_layers}; pass --set model.text_layers={own.layers}",
            code="E-INIT-MODEL",
        )
    model = dataclasses.replace(model, text_hidden=own.hidden, text_heads=own.heads)
    return dataclasses.replace(settings, model=model), start


def choose_pieces(settings: NavigationSettings, start: Pretrained | None) -> WordPieces | None:
    """Return the word pieces that agents read: of their start or of a file; None for words.

    Raises UsageError for a file that is not a BERT's vocab.txt.
    """
    if start is not None:
        return cast(WordPieces, start.vocabulary.words)
    return read_pieces(Path(settings.pieces)) if settings.pieces else None


def start_text(agent: MapAgent, start: Pretrained, *, max_tokens: int) -> None:
    """Give an agent's text encoder the vectors of pieces and the first layers of a run.

    Logs where texts of `max_tokens` are longer than those that the run has read.
    """
    bert = cast(PieceReader, agent.text).bert
    start.fill(bert.embeddings, "encoder.bert.embeddings")
    for number, layer in enumerate(bert.encoder.layer):
        start.fill(layer, f"encoder.bert.encoder.layer.{number}")
    own = cast(SingleStreamSettings, start.settings)
    read, of = len(bert.encoder.layer), counted(own.layers, "layer")
    logger.info(f"text encoder from {start.folder}: vectors of pieces, first {read} of {of}")
    longest = field(start.manifest.settings, "max_tokens", int, start.folder)
    if longest < max_tokens:
        logger.info(
            f"{start.folder} has read {longest} pieces of a text at most, and max_tokens is "
            f"{max_tokens}: the vectors of later places begin as that run's did"
        )
