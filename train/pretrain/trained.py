"""The best model of a pre-training run, and how much it finds out with images and without."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator

from ...featstore import FeatureStore
from ..grids.normalize import ChannelStatistics, FeatureNorm
from ..grids.records import RecordReader
from ..grounded.start import require_places
from ..loop.checkpoint import rebuild
from ..loop.devices import accelerator_of_trained, inference_errors
from ..loop.run import require_features
from ..models.pretrained import load_pretrained
from ..runs.folder import BEST, RunCard
from ..settings import settings_of
from ..texts.pieces import WordPieces
from ..texts.vocabulary import Vocabulary
from .corpus.read import corpus_files
from .encode import encode
from .evaluation import evaluate
from .examples import BatchReader, Sentences
from .gather import read_corpus
from .model import Pretrainer
from .settings import PretrainSettings


@dataclass(frozen=True)
class TrainedEncoder:
    """The best model of a run, with all that scoring it takes."""

    model: Pretrainer
    vocabulary: Vocabulary
    settings: PretrainSettings
    card: RunCard
    epoch: int  # of the checkpoint


def load_run(run: Path) -> TrainedEncoder:
    """Return the best model of a run folder, on the CPU; UsageError where there is none."""
    pretrained = load_pretrained(run)
    settings = settings_of(PretrainSettings, pretrained.card.settings)
    build = functools.partial(make_model, settings, pretrained.statistics, pretrained.vocabulary)
    model = rebuild(build, pretrained.tensors, run / BEST)
    return TrainedEncoder(model, pretrained.vocabulary, settings, pretrained.card, pretrained.epoch)


def make_model(
    settings: PretrainSettings, statistics: ChannelStatistics, vocabulary: Vocabulary
) -> Pretrainer:
    """Return a model of random weights."""
    norm = FeatureNorm(statistics, blind=settings.blind)
    tokens, answers = vocabulary.words.tokens, len(vocabulary.answers)
    return Pretrainer(settings, norm, tokens=tokens, answers=answers)


def eval_pretrain(
    run: Path,
    *,
    split: str,
    store: Path | None,
    data: Path | None,
    device: str | None,
    skip_missing: int | None = None,
) -> dict[str, Any]:
    """Return how much of a corpus a run's best model finds out, with images and without.

    `store`, `data` and `skip_missing` are by default those of the run. Raises UsageError for a
    store with other features than the run's.
    """
    trained = load_run(run)
    settings, card = trained.settings, trained.card
    accelerator = accelerator_of_trained(device, settings)
    features = FeatureStore.open(store or Path(card.store))
    require_features(features, card)
    require_places(settings.model, features)
    sentences = encode(
        read_corpus(corpus_files(data or Path(card.data), split)),
        split,
        features,
        words=cast(WordPieces, trained.vocabulary.words),
        answers=trained.vocabulary.answers,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing if skip_missing is None else skip_missing,
    )
    reader = RecordReader(features, accelerator.device)
    return score_split(trained, split, sentences, reader, accelerator)


def score_split(
    trained: TrainedEncoder,
    split: str,
    sentences: Sentences,
    reader: RecordReader,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Return the scores on a corpus and, under "without_image", those with features as zeros."""
    settings, words = trained.settings, cast(WordPieces, trained.vocabulary.words)
    batches = BatchReader(reader, sentences, words, settings, sampled_cells=0)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    with inference_errors(settings.precision):
        scores = evaluate(model, batches, settings, accelerator)
    result = {"split": split, "epoch": trained.epoch, "blind": settings.blind}
    result |= {"n": len(sentences), **scores, "without_image": None}
    if not settings.blind:
        trained.model.norm.blind = True
        result["without_image"] = evaluate(model, batches, settings, accelerator)
    return result


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    told = {
        "words": "masked word pieces",
        "matching": "text and image match or do not",
        "answers": "answers",
    }
    lines = [f"corpus {result['split']}: {result['n']} sentences, epoch {result['epoch']}"]
    for name, what in told.items():
        if name in result:
            line = f"{result[name]:6.2f}  {what}"
            blind = result["without_image"]
            lines.append(line if blind is None else f"{line} ({blind[name]:.2f} without the image)")
    return "\n".join([*lines, f"{-result['score']:6.3f}  loss"])
