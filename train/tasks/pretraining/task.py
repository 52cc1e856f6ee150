"""How much of what is hidden a pre-trained encoder finds out."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from ....base.errors import ClipfeatError
from ....base.files import local_path
from ....featstore import FeatureStore
from ...batches import epoch_order
from ...checkpoint import rebuild
from ...data.lxmert import find_corpus
from ...data.vocabulary import Vocabulary, WordPieces, read_answer_list
from ...devices import accelerator_of_trained, accelerator_on, inference_errors, memory_errors
from ...engine import each_batch, make_card, open_run, part_size, require_features, train
from ...log import LoopTimes
from ...models.pretrained import TASK, Pretrained, find_bert, load_bert, load_pretrained
from ...models.start import choose_words, find_start, require_grid_side, start_files
from ...records import ChannelStatistics, FeatureNorm, RecordReader, channel_statistics
from ...run import BEST, RunCard
from ...settings import settings_of
from ..answering import make_order, require_apart, write_results
from ..settings import PretrainSettings
from .examples import BatchReader, Corpus, Sentences, encode, read_corpus
from .model import Pretrainer, loss_of, tallies

logger = logging.getLogger(__name__)

EPOCH = 1 << 31  # none of training's: a split is hidden and replaced in the same way every time
OBJECTIVES = ("words", "matching", "answers", "cells")


@torch.inference_mode()
def evaluate(
    model: nn.Module, reader: BatchReader, settings: PretrainSettings, accelerator: Accelerator
) -> dict[str, float]:
    """Return "score", minus the weighted loss, and of each objective its loss and its accuracy.

    The accuracies, "words", "matching" and "answers", are in percent; masked pieces are judged
    where the text is about the image. With several processes each computes a part of the batches.
    """
    model.eval()
    order = epoch_order(reader.sentences.image_of_sentence, seed=0, epoch=0)
    sums = torch.zeros(len(OBJECTIVES), 4, dtype=torch.float64, device=accelerator.device)
    for _, batch in each_batch(
        order,
        lambda numbers: reader.read(numbers, EPOCH),
        accelerator,
        size=part_size(settings),
        doing="evaluating",
    ):
        for name, tally in tallies(model(batch), batch).items():
            sums[OBJECTIVES.index(name)] += torch.stack([n.double() for n in tally])
    return _scores(torch.as_tensor(accelerator.reduce(sums, "sum")).tolist(), settings)


def _scores(sums: list[list[float]], settings: PretrainSettings) -> dict[str, float]:
    """Return losses and accuracies of what was asked about."""
    scores: dict[str, float] = {}
    total = 0.0
    for name, (loss, asked, right, judged) in zip(OBJECTIVES, sums, strict=True):
        weight = getattr(settings.objectives, name)
        if weight and asked:
            scores[f"{name}_loss"] = round(loss / asked, 4)
            total += weight * loss / asked
        if weight and judged:
            scores[name] = round(100 * right / judged, 2)
    return {"score": round(-total, 4), **scores}


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
    settings = settings_of(PretrainSettings, pretrained.manifest.settings)
    build = functools.partial(make_model, settings, pretrained.statistics, pretrained.vocabulary)
    model = rebuild(build, pretrained.tensors, run / BEST)
    return TrainedEncoder(
        model, pretrained.vocabulary, settings, pretrained.manifest, pretrained.epoch
    )


def make_model(
    settings: PretrainSettings, statistics: ChannelStatistics, vocabulary: Vocabulary
) -> Pretrainer:
    """Return a model of random weights."""
    norm = FeatureNorm(statistics, blind=settings.blind)
    tokens, answers = vocabulary.words.size, len(vocabulary.answers)
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
    require_grid_side(settings.model, features)
    sentences = encode(
        read_corpus(find_corpus(data or Path(card.data), split)),
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


def train_pretrain(
    settings: PretrainSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one corpus, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.run` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    listed = read_answer_list(local_path(settings.answer_list)) if settings.answer_list else ()
    files = find_corpus(data, settings.train_split)
    held_out_files = find_corpus(data, settings.eval_split) if settings.eval_split else ()
    corpus, held_out = read_corpus(files), read_corpus(held_out_files)
    vocabulary = Vocabulary(
        choose_words(settings.model, pretrained, corpus.texts),
        _choose_answers(corpus, settings, listed),
    )
    words = cast(WordPieces, vocabulary.words)
    encode_corpus = functools.partial(
        encode,
        store=features,
        words=words,
        answers=vocabulary.answers,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    sentences = encode_corpus(corpus, settings.train_split)
    scored = encode_corpus(held_out, settings.eval_split) if held_out_files else None
    if scored is not None:
        require_apart(settings, sentences.image_ids, scored.image_ids, of="images")
    reader = RecordReader(features, accelerator.device, settings.cache)
    ids = {*sentences.image_ids, *(scored.image_ids if scored else ())}
    reader.require_room(ids, processes=accelerator.num_processes)
    with memory_errors("the model does not fit; lower its sizes, such as model.hidden"):
        model = _new_model(settings, features, sentences, vocabulary, pretrained)
    given = (local_path(settings.answer_list),) if settings.answer_list else ()
    card = make_card(
        TASK,
        settings,
        store=features,
        data=data,
        files=(*files, *held_out_files, *given, *start_files(settings)),
    )
    batches = BatchReader(reader, sentences, words, settings, settings.sampled_cells)

    def score(scored: Sentences, model: nn.Module) -> Mapping[str, float]:
        whole = BatchReader(reader, scored, words, settings, sampled_cells=0)
        return evaluate(model, whole, settings, accelerator)

    with open_run(out, card, vocabulary, accelerator):
        times = train(
            model,
            settings,
            run=out,
            accelerator=accelerator,
            order=make_order(sentences.image_of_sentence, sentences.image_ids, features, settings),
            read_batch=batches.read,
            loss_of=functools.partial(loss_of, settings=settings),
            evaluate=functools.partial(score, scored) if scored else None,
        )
    best = load_run(out)
    result: dict[str, Any] = {"split": "", "epoch": best.epoch, "blind": settings.blind}
    if scored is not None:
        result = score_split(best, settings.eval_split, scored, reader, accelerator)
    if accelerator.is_main_process:
        write_results(out, result, None)
    return result, times


def _choose_answers(
    corpus: Corpus, settings: PretrainSettings, listed: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the answer table; ClipfeatError where question answering counts and there is none.

    `listed` are the answers of a file, where there is one.
    """
    if not settings.objectives.answers:
        return ()
    answers = listed or corpus.common_answers(min_count=settings.min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of corpus {settings.train_split!r} is that of {settings.min_answer_count} "
            "questions; pass --set min_answer_count=1, or --set objectives.answers=0"
        )
    return answers


def _new_model(
    settings: PretrainSettings,
    store: FeatureStore,
    sentences: Sentences,
    vocabulary: Vocabulary,
    pretrained: Pretrained | None,
) -> Pretrainer:
    """Return the model that training begins with; the same one every time."""
    if pretrained is not None:
        statistics = pretrained.statistics
    else:
        statistics = channel_statistics(store, sentences.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    model = make_model(settings, statistics, vocabulary)
    if pretrained is not None:
        _go_on_from(pretrained, model, vocabulary)
    elif settings.model.bert:
        bert = load_bert(model.encoder.bert, find_bert(settings.model.bert))
        model.word.start_from(bert)
    return model


def _go_on_from(pretrained: Pretrained, model: Pretrainer, vocabulary: Vocabulary) -> None:
    """Give a model the weights of the stage before it; what that had no head for begins anew."""
    pretrained.fill(model.encoder, "encoder")
    pretrained.fill(model.word, "word")
    pretrained.fill(model.matching, "matching")
    if model.answer is not None:
        pretrained.fill_answers(model.answer, vocabulary.answers)
    if model.cell is not None and pretrained.has("cell"):
        pretrained.fill(model.cell, "cell")
    logger.info(f"going on from {pretrained.folder}")
