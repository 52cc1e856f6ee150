"""The model that the settings name."""

import codecs
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from ...base.errors import UsageError
from ...base.files import local_path, open_plain
from ...featstore import FeatureStore
from ..data.vocabulary import Vocabulary, WordPieces, read_pieces, train_pieces
from ..data.words import Words, build_words
from ..records import ChannelStatistics, FeatureNorm, channel_statistics
from ..run import BEST
from .bert import PIECES, WEIGHTS, find_bert, start_from
from .layers import Words as WordVectors
from .mcan import Mcan
from .movie_mcan import MovieMcan
from .pretrained import Pretrained, load_pretrained
from .pythia import Pythia
from .settings import (
    GroundedSettings,
    McanSettings,
    ModelSettings,
    MovieMcanSettings,
    PythiaSettings,
    SingleStreamSettings,
    TextSettings,
    UpDnSettings,
)
from .updn import UpDn

if TYPE_CHECKING:
    from .single_stream import SingleStream

logger = logging.getLogger(__name__)


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
            from .single_stream import SingleStream

            return SingleStream(settings, norm, tokens=tokens, answers=answers)


FILE_BYTES = 32 << 30  # the largest that was published, 840B with 300 numbers, has 5.6e9
LINE_BYTES = 1 << 20


def require_glove(path: Path) -> Path:
    """Return `path`; raise UsageError unless it is a file that can be read, and not too large."""
    try:
        _open(path).close()
    except OSError as error:
        raise _unreadable(path, error) from None
    return path


def read_glove(
    path: Path, words: Sequence[str], *, channels: int
) -> tuple[Int[Tensor, " word"], Float32[Tensor, "word channel"]]:
    """Return (positions in `words`, their vectors) of the words that the file has.

    A line is a word and its numbers with spaces between, in UTF-8 with or without a byte-order
    mark; the file is read once, and no line is kept but those of `words`. Raises UsageError that
    names the line of a file in another format, and where the file's vectors have another length or
    it has none of the words, is too large, or is a pipe or a device.
    """
    wanted = {word.encode(): row for row, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    for where, word, numbers in _lines(path, channels):
        row = wanted.get(word)
        if row is not None and row not in found:  # 840B has some words twice
            found[row] = _vector(numbers, where)
    if not found:
        raise UsageError(f"model.glove {path}: has none of the {len(words)} words of the questions")
    return torch.tensor(list(found)), torch.from_numpy(np.stack(list(found.values())))


def _open(path: Path) -> BinaryIO:
    file = os.fdopen(open_plain(path, follow=True), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > FILE_BYTES:
        file.close()
        raise UsageError(
            f"model.glove {path}: {size:,} bytes; such a file has at most {FILE_BYTES:,}",
            code="E-GLOVE-SIZE",
        )
    return file


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"model.glove {path}: cannot be read ({error.strerror})", code="E-GLOVE-FILE")


def _lines(path: Path, channels: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Yield (where it stands, word, numbers) of each line."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(LINE_BYTES):
                number += 1
                where = f"model.glove {path}, line {number}"
                if len(line) == LINE_BYTES:
                    raise UsageError(
                        f"{where}: longer than {LINE_BYTES:,} bytes; pass a text file with a word "
                        f"and its numbers in each line",
                        code="E-GLOVE-LINE",
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    _require_length(line, channels, where)
                # From the right: the words of the 840B file may hold spaces.
                word, *numbers = line.rstrip(b"\r\n").rsplit(b" ", channels)
                if len(numbers) != channels:
                    raise UsageError(
                        f"{where}: expected a word and {channels} numbers; got {len(numbers)} "
                        f"numbers after {word.decode(errors='replace')!r:.40}"
                    )
                yield where, word, numbers
    except OSError as error:
        raise _unreadable(path, error) from None
    if not number:
        raise UsageError(f"model.glove {path}: the file is empty")


def _require_length(line: bytes, channels: int, where: str) -> None:
    """Raise UsageError unless the file's first line ends with `channels` numbers, and no more."""
    fields = line.split()
    length = next(
        (n for n, text in enumerate(reversed(fields[1:])) if not _is_number(text)),
        max(0, len(fields) - 1),
    )
    if not length:
        raise UsageError(
            f"{where}: expected a word and {channels} numbers; the last field is not a number",
            code="E-GLOVE-LINE",
        )
    if length != channels:
        raise UsageError(
            f"{where}: {length} numbers after its word, but model.embedding is {channels}; "
            f"pass --set model.embedding={length}, or a file of that many"
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(numbers: list[bytes], where: str) -> np.ndarray:
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UsageError(f"{where}: numbers must be finite, as float32 too")
    return vector.astype(np.float32)


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
        logger.info(
            f"starting from {pretrained.folder}, which knows {known:,} of {len(answers):,} answers",
        )
    elif sizes.bert:
        start_from(model.encoder.bert, find_bert(sizes.bert))


def _start_words(vectors: WordVectors, path: Path, words: Words | WordPieces) -> None:
    """Start the vectors of words from a file of GloVe's."""
    assert isinstance(words, Words)
    rows, found = read_glove(path, words.words, channels=vectors.embedding_dim)
    vectors.fill(rows, found)
    logger.info(f"{path.name}: vectors of {len(rows):,} of {len(words.words):,} words")
