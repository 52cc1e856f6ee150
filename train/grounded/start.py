"""What a model starts from: random numbers, GloVe, a BERT, or a pre-training run."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

from ...base.errors import UsageError
from ...base.files import local_path
from ...base.text import say
from ...featstore import FeatureStore
from ..grids.normalize import ChannelStatistics, FeatureNorm, channel_statistics
from ..models.bert import PIECES, WEIGHTS, find_bert, start_from
from ..models.build import build_model
from ..models.pretrained import Pretrained, load_pretrained
from ..models.settings import ModelSettings, SingleStreamSettings, TextSettings
from ..models.words import Words as WordVectors
from ..runs.folder import BEST
from ..texts.glove import read_glove, require_glove
from ..texts.pieces import WordPieces, read_pieces, train_pieces
from ..texts.vocabulary import Vocabulary
from ..texts.words import Words, build_words
from .settings import GroundedSettings

if TYPE_CHECKING:  # its BERT takes seconds to import
    from ..models.single_stream import SingleStream

S = TypeVar("S", bound=GroundedSettings)


def find_start(settings: S, store: FeatureStore) -> tuple[S, Pretrained | None]:
    """Return the settings with the model that they start from, and the run that has it.

    Raises UsageError where `init` is no pre-training run or one on other features than the store's,
    where another model is asked for, and where a grid is too large for the model.
    """
    if not settings.init:
        require_places(settings.model, store)
        return settings, None
    pretrained = load_pretrained(local_path(settings.init))
    if settings.model not in (type(settings)().model, pretrained.settings):
        raise UsageError(
            f"init {settings.init} brings its own model, {pretrained.settings}, and the settings "
            f"ask for {settings.model}; leave out model"
        )
    pretrained.require_features_of(store)
    require_places(pretrained.settings, store)
    return dataclasses.replace(settings, model=pretrained.settings), pretrained


def require_places(model: ModelSettings, store: FeatureStore) -> None:
    """Raise UsageError where a grid has more rows or columns than an encoder has places for.

    All of the store's count: the images that the model is asked about later are among them.
    """
    longest = max((max(shape) for shape in store.grid_shapes), default=1)
    if isinstance(model, SingleStreamSettings) and longest > model.places:
        raise UsageError(
            f"model.places is {model.places}, and {store.path} has grids of {longest} rows or "
            f"columns; pass --set model.places={longest}, in pre-training too"
        )


def choose_words(
    model: ModelSettings, pretrained: Pretrained | None, texts: Iterable[str]
) -> Words | WordPieces:
    """Return what a model reads of texts: those of what it starts from, or of training `texts`."""
    if pretrained is not None:
        return pretrained.vocabulary.words
    match model:
        case SingleStreamSettings(bert="", pieces=size):
            return train_pieces(list(texts), size=size)
        case SingleStreamSettings(bert=bert):
            return read_pieces(find_bert(bert) / PIECES)
        case _:
            return Words(build_words(texts))


def start_files(settings: GroundedSettings) -> tuple[Path, ...]:
    """Return the files that a new model is made from."""
    match settings.model:
        case SingleStreamSettings() if settings.init:
            return (local_path(settings.init) / BEST,)
        case SingleStreamSettings(bert=bert) if bert:
            return (find_bert(bert) / WEIGHTS, find_bert(bert) / PIECES)
        case TextSettings(glove=glove) if glove:
            return (require_glove(local_path(glove)),)
        case _:
            return ()


def make_model(
    settings: GroundedSettings, statistics: ChannelStatistics, vocabulary: Vocabulary
) -> nn.Module:
    """Return a model of random weights."""
    norm = FeatureNorm(statistics, blind=settings.blind)
    tokens, answers = vocabulary.words.tokens, len(vocabulary.answers)
    return build_model(settings.model, norm, tokens=tokens, answers=answers)


def new_model(
    settings: GroundedSettings,
    store: FeatureStore,
    image_ids: Sequence[str],
    vocabulary: Vocabulary,
    pretrained: Pretrained | None,
) -> nn.Module:
    """Return the model that training on images of a store begins with; the same one every time.

    Raises UsageError where what it starts from does not fit the settings or the store.
    """
    if pretrained is not None:
        statistics = pretrained.statistics
    else:
        statistics = channel_statistics(store, image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    model = make_model(settings, statistics, vocabulary)
    match settings.model:
        case SingleStreamSettings() as sizes:
            _start_single_stream(cast("SingleStream", model), sizes, vocabulary.answers, pretrained)
        case TextSettings(glove=glove) if glove:
            _start_words(cast(WordVectors, model.words), Path(glove), vocabulary.words)
    return model


def _start_single_stream(
    model: "SingleStream",
    sizes: SingleStreamSettings,
    answers: Sequence[str],
    pretrained: Pretrained | None,
) -> None:
    """Give an encoder and its head the weights that they start from, if there are."""
    if pretrained is not None:
        pretrained.fill(model.encoder, "encoder")
        known = pretrained.fill_answers(model.answer, answers)
        say(
            f"starting from {pretrained.folder}, which knows {known:,} of {len(answers):,} answers",
        )
    elif sizes.bert:
        start_from(model.encoder.bert, find_bert(sizes.bert))


def _start_words(vectors: WordVectors, path: Path, words: Words | WordPieces) -> None:
    """Start the vectors of words from a file of GloVe's."""
    assert isinstance(words, Words)
    rows, found = read_glove(path, words.words, channels=vectors.embedding_dim)
    vectors.fill(rows, found)
    say(f"{path.name}: vectors of {len(rows):,} of {len(words.words):,} words")
