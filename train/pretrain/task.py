"""The pre-training task: train the single-stream encoder on sentences about a store's images."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...base.errors import ClipfeatError
from ...base.files import local_path
from ...base.text import say
from ...featstore import FeatureStore
from ..grids.normalize import channel_statistics
from ..grids.records import RecordReader
from ..grounded.examples import make_order
from ..grounded.start import choose_words, find_start, start_files
from ..grounded.train import require_apart, write_results
from ..loop.devices import accelerator_on, memory_errors
from ..loop.profile import LoopTimes
from ..loop.run import make_card, open_run
from ..loop.train import train
from ..models.bert import find_bert, start_from
from ..models.pretrained import TASK, Pretrained
from ..texts.pieces import WordPieces
from ..texts.vocabulary import Vocabulary
from ..vqa.answers import read_answer_list
from .corpus.read import corpus_files
from .encode import encode
from .evaluation import evaluate
from .examples import BatchReader, Sentences
from .gather import Corpus, read_corpus
from .model import Pretrainer, loss_of
from .settings import PretrainSettings
from .trained import load_run, make_model, score_split


def train_pretrain(
    settings: PretrainSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one corpus, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.runs.folder` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    listed = read_answer_list(local_path(settings.answer_list)) if settings.answer_list else ()
    files = corpus_files(data, settings.train_split)
    held_out_files = corpus_files(data, settings.eval_split) if settings.eval_split else ()
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
        bert = start_from(model.encoder.bert, find_bert(settings.model.bert))
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
    say(f"going on from {pretrained.folder}")
