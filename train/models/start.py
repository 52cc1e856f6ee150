"""Build the model that the settings name, and give it the weights and words that it starts from."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..data.vocabulary import (
    TextVocabulary,
    Vocabulary,
    WordVocabulary,
    add_words,
    build_words,
    read_pieces,
    train_pieces,
)
from ..devices import seeded
from ..normalize import FeatureNorm, feature_statistics
from ..run import BEST
from .bert import PIECES, WEIGHTS, find_bert, load_bert, require_bert_sizes
from .glove import read_glove, require_glove
from .layers import WordEmbedding
from .mcan import Mcan
from .movie_mcan import MovieMcan
from .pretrained import (
    ANSWERING,
    TASK,
    Pretrained,
    load_pretrained,
    require_features_of,
    require_init,
    require_own_model,
)
from .probes import AttentiveProbe, LinearProbe
from .pythia import Pythia
from .regions import require_regions
from .settings import (
    AnsweringSettings,
    AttentiveProbeSettings,
    LinearProbeSettings,
    McanSettings,
    ModelSettings,
    MovieMcanSettings,
    PythiaSettings,
    SingleStreamSettings,
    TextSettings,
    TextTaskSettings,
    UpDnLargeSettings,
    UpDnSettings,
)
from .updn import UpDn, UpDnLarge

if TYPE_CHECKING:
    from .single_stream import SingleStream

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=TextTaskSettings)


def find_start(settings: S, store: FeatureStore) -> tuple[S, Pretrained | None]:
    """Return the settings with the model and the norm that they start from, and the run that has it.

    An answering task starts from a run of pre-training, `vqa` or `ve`, and pre-training from one of
    its own. Raises UsageError if `init` is another run or was trained on other features than the
    store's, if the settings name another model, and if the model does not fit the store
    (`require_fit`).
    """
    if not settings.init:
        require_fit(settings.model, store)
        return settings, None
    require_init(settings.init)
    answering = isinstance(settings, AnsweringSettings)
    pretrained = load_pretrained(Path(settings.init), (TASK, *ANSWERING) if answering else (TASK,))
    require_own_model(settings, pretrained.settings)
    require_own_sizes(pretrained)
    channels = len(pretrained.statistics.mean)
    require_features_of(store, pretrained.folder, pretrained.manifest, channels=channels)
    require_fit(pretrained.settings, store)
    settings = dataclasses.replace(settings, model=pretrained.settings, **pretrained.norm)
    return settings, pretrained


def require_own_sizes(run: Pretrained) -> None:
    """Raise UsageError unless a run's weights have the sizes of its settings.

    They come from two files, which may have been changed. Building its model on "meta" takes no memory.
    """
    # Of a run of pre-training only the encoder is used here; it may have no answers.
    encoder = run.manifest.task == TASK
    part, answers = ("encoder.", 1) if encoder else ("", run.vocabulary.classes)
    norm = FeatureNorm(run.statistics, blind=False, regions=run.manifest.regions)
    with torch.device("meta"):
        tokens = run.vocabulary.words.size
        model = build_model(run.settings, norm, tokens=tokens, answers=answers)
    for name, tensor in model.state_dict().items():
        found = run.tensors.get(f"model.{name}")
        if name.startswith(part) and (found is None or found.shape != tensor.shape):
            raise UsageError(
                f"init {run.folder}: its weights do not fit its settings: {name} must have shape "
                f"{tuple(tensor.shape)}, got {None if found is None else tuple(found.shape)}; "
                "use a run whose settings.json is as it was written",
                code="E-INIT-FIT",
            )


def require_fit(model: ModelSettings, store: FeatureStore) -> None:
    """Raise UsageError where a model cannot read the grids, or the regions, of a store.

    That is a grid with more rows or columns than the model allows, and what `require_regions`
    says of regions. All images of the store count: those that the model will be evaluated on are
    among them.
    """
    if store.identity.regions:
        require_regions(model, store)
        return
    longest = max((max(shape) for shape in store.grid_shapes), default=1)
    if isinstance(model, SingleStreamSettings) and longest > model.max_grid_side:
        raise UsageError(
            f"model.max_grid_side is {model.max_grid_side}, and {store.location} has grids of "
            f"{longest} rows or columns; pass --set model.max_grid_side={longest}, in "
            "pre-training too",
            code="E-SETTINGS-GRID-SIDE",
        )


def choose_words(
    model: ModelSettings, pretrained: Pretrained | None, texts: Iterable[str]
) -> TextVocabulary:
    """Return the words or pieces that a model reads: of its start, or of training `texts`.

    Those of a start have its tokens; new words of the training texts follow them.
    """
    if pretrained is not None:
        return add_words(pretrained.vocabulary.words, texts)
    match model:
        case SingleStreamSettings(bert="", vocab_size=size):
            return train_pieces(list(texts), size=size)
        case SingleStreamSettings(bert=bert):
            return read_pieces(find_bert(bert) / PIECES)
        case _:
            return build_words(texts)


def start_files(settings: TextTaskSettings) -> tuple[Path, ...]:
    """Return the files that a new model is made from.

    Raises UsageError where one is missing, and for a BERT of other sizes than the model.
    """
    if settings.init:
        return (Path(settings.init) / BEST,)
    match settings.model:
        case SingleStreamSettings(bert=bert) as model if bert:
            folder = find_bert(bert)
            require_bert_sizes(model, folder)
            return (folder / WEIGHTS, folder / PIECES)
        case TextSettings(glove=glove) if glove:
            return (require_glove(Path(glove)),)
        case _:
            return ()


def new_model(
    settings: AnsweringSettings,
    store: FeatureStore,
    image_ids: Sequence[str],
    vocabulary: Vocabulary,
    pretrained: Pretrained | None,
) -> nn.Module:
    """Return the model that training on images of a store begins with; the same one every time.

    Raises UsageError where its start does not fit the settings or the store.
    """
    if pretrained is not None:
        statistics = pretrained.statistics
    else:
        statistics = feature_statistics(
            store,
            image_ids,
            **settings.of_norm(),
            seed=settings.seed,
        )
    regions = bool(store.identity.regions)
    norm = FeatureNorm(statistics, blind=settings.blind, regions=regions)
    with seeded(settings.seed):
        model = make_model(settings, norm, vocabulary)
    if pretrained is not None:
        known = _start_from(pretrained, model, vocabulary)
        of = f"{known:,} of {len(vocabulary.answers):,}"
        logger.info(f"starting from {pretrained.folder}, which knows {of} answers")
        return model
    match settings.model:
        case SingleStreamSettings(bert=bert) if bert:
            load_bert(cast("SingleStream", model).encoder.bert, find_bert(bert))
        case TextSettings(glove=""):
            _say_published_start(settings.model)
        case TextSettings(glove=glove):
            _start_words(model, Path(glove), vocabulary.words)
    return model


def make_model(settings: AnsweringSettings, norm: FeatureNorm, vocabulary: Vocabulary) -> nn.Module:
    """Return a model of random weights."""
    tokens = vocabulary.words.size
    return build_model(settings.model, norm, tokens=tokens, answers=vocabulary.classes)


def build_model(
    settings: ModelSettings, norm: FeatureNorm, *, tokens: int, answers: int
) -> nn.Module:
    """Return a new model of random weights, whose forward pass returns `Outputs`.

    `tokens` is the size of the vocabulary, `answers` the number of classes to choose from.
    """
    match settings:
        case UpDnSettings():
            return UpDn(settings, norm, tokens=tokens, answers=answers)
        case UpDnLargeSettings():
            return UpDnLarge(settings, norm, tokens=tokens, answers=answers)
        case PythiaSettings():
            return Pythia(settings, norm, tokens=tokens, answers=answers)
        case McanSettings():
            return Mcan(settings, norm, tokens=tokens, answers=answers)
        case MovieMcanSettings():
            return MovieMcan(settings, norm, tokens=tokens, answers=answers)
        case AttentiveProbeSettings():
            return AttentiveProbe(settings, norm, tokens=tokens, answers=answers)
        case LinearProbeSettings():
            return LinearProbe(settings, norm, tokens=tokens, answers=answers)
        case SingleStreamSettings():
            from .single_stream import SingleStream

            return SingleStream(settings, norm, tokens=tokens, answers=answers)


def _start_from(pretrained: Pretrained, model: nn.Module, vocabulary: Vocabulary) -> int:
    """Give a model the weights of a run; return how many of the answers the run knew."""
    if pretrained.manifest.task == TASK:
        model = cast("SingleStream", model)
        pretrained.fill(model.encoder, "encoder")
        return pretrained.fill_answers(model.answer, vocabulary.answers)

    # A run has its model's weights by name. Models of other sizes tell which have a row for each
    # token or class, so that no model has to.
    def shapes(*, tokens: int, answers: int) -> dict[str, torch.Size]:
        norm = FeatureNorm(pretrained.statistics, blind=False, regions=pretrained.manifest.regions)
        with torch.device("meta"):
            other = build_model(pretrained.settings, norm, tokens=tokens, answers=answers)
        return {name: tensor.shape for name, tensor in other.state_dict().items()}

    small = shapes(tokens=4, answers=2)
    more_tokens, more_classes = shapes(tokens=5, answers=2), shapes(tokens=4, answers=3)
    pretrained.fill_model(
        model,
        vocabulary,
        of_tokens=[name for name in small if small[name] != more_tokens[name]],
        of_classes=[name for name in small if small[name] != more_classes[name]],
    )
    return len(set(vocabulary.answers).intersection(pretrained.vocabulary.answers))


def _start_words(model: nn.Module, path: Path, words: TextVocabulary) -> None:
    """Start a model's word vectors from a file of GloVe's."""
    assert isinstance(words, WordVocabulary)
    embedding = word_embedding(model)
    rows, vectors = read_glove(path, words.words, channels=embedding.embedding_dim)
    embedding.fill(rows, vectors)
    logger.info(f"{path.name}: vectors of {len(rows):,} of {len(words.words):,} words")


def _say_published_start(settings: TextSettings) -> None:
    """Log from which vectors the published runs of a model started, if there are such runs.

    This run has other ones.
    """
    published = settings.PUBLISHED_GLOVE
    if published and settings.embedding == settings.PUBLISHED_EMBEDDING:
        logger.info(
            f"word vectors start at random; the published runs started from {published}: "
            f"--set model.glove={published}"
        )


def word_embedding(model: nn.Module) -> WordEmbedding:
    """Return the vectors of words of a model that reads whole words."""
    return next(module for module in model.modules() if isinstance(module, WordEmbedding))
