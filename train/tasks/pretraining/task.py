"""The pre-training task: train the single-stream encoder on sentences about a store's images."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ....base.errors import ClipfeatError
from ....base.text import counted
from ....featstore import FeatureStore
from ...batches import Numbers, epoch_order
from ...checkpoint import EvalRequest, TrainedRun, load_trained
from ...data.corpus import NO_COCO
from ...data.corpus_sources import VG_REGIONS
from ...data.lxmert import find_corpus
from ...data.vocabulary import Vocabulary, WordPieces, read_answer_list, read_vocabulary
from ...devices import (
    MODEL_SIZE_REMEDY,
    accelerator_of_trained,
    accelerator_on,
    inference_errors,
    memory_errors,
    seeded,
)
from ...engine import each_batch, eval_batch_size
from ...models.bert import find_bert, load_bert
from ...models.pretrained import TASK, Pretrained
from ...models.start import choose_words, find_start, require_fit, start_files
from ...normalize import FeatureNorm, feature_statistics, with_chosen_norm
from ...records import RecordReader
from ...run import require_features
from ...schedule import updates_an_epoch
from ...task import Report, Task, format_unscored, make_order, require_apart, unscored
from ..settings import PretrainSettings
from .examples import BatchReader, Corpus, PretrainBatch, Sentences, encode, read_corpus
from .model import Pretrainer, objectives_loss, tallies

logger = logging.getLogger(__name__)

TrainedEncoder = TrainedRun[PretrainSettings, Vocabulary, Pretrainer]


class PretrainingTask(Task[PretrainSettings, Pretrainer]):
    """Train on the sentences of one corpus, and score the model on another."""

    name = TASK

    def __init__(
        self,
        settings: PretrainSettings,
        *,
        store: str | Path,
        data: Path,
        device: str | None = None,
    ):
        """Read both corpora, and make the model that training begins with.

        Raises UsageError before any work, StoreError for a store that cannot be read, and
        ClipfeatError for data that do not fit it.
        """
        features = FeatureStore.open(store)
        settings, pretrained = find_start(settings, features)
        starts = start_files(settings)
        accelerator = accelerator_on(device, settings)
        answer_list = (Path(settings.answer_list),) if settings.answer_list else ()
        listed = read_answer_list(*answer_list) if answer_list else ()
        files = find_corpus(data, settings.train_split)
        held_out_files = find_corpus(data, settings.eval_split) if settings.eval_split else ()
        corpus, held_out = read_corpus(files), read_corpus(held_out_files)
        vocabulary = Vocabulary(
            choose_words(settings.model, pretrained, corpus.texts),
            _choose_answers(corpus, settings, listed),
        )
        sentences = encode_corpus(corpus, settings.train_split, vocabulary, features, settings)
        if note := note_on_regions(corpus, settings, len(sentences)):
            logger.info(note)
        self.held_out = None
        if held_out_files:
            self.held_out = encode_corpus(
                held_out, settings.eval_split, vocabulary, features, settings
            )
            require_apart(settings, sentences.image_ids, self.held_out.image_ids, of="images")
        self.reader = RecordReader(features, accelerator.device, settings.cache)
        ids = {*sentences.image_ids, *(self.held_out.image_ids if self.held_out else ())}
        self.reader.require_room(ids, processes=accelerator.num_processes)
        with memory_errors(MODEL_SIZE_REMEDY):
            self.model = _new_model(settings, features, sentences, vocabulary, pretrained)
        settings = with_chosen_norm(settings, self.model)
        self.settings, self.accelerator, self.vocabulary = settings, accelerator, vocabulary
        self.store, self.data = features, data
        self.data_files = (*files, *held_out_files, *answer_list, *starts)
        self.batches = self._batches_of(sentences, settings.sampled_cells)
        self.order = make_order(
            sentences.image_of_sentence, sentences.image_ids, features, settings
        )

    def fetch(self, image_ids: Sequence[str]) -> None:
        """Bring the records of images to this machine, unless they are kept in memory."""
        self.reader.fetch(image_ids)

    def batch(self, numbers: Numbers, epoch: int) -> PretrainBatch:
        """Return the sentences at `numbers`, masked as (seed, epoch) says."""
        return self.batches.read(numbers, epoch)

    def loss(self, model: nn.Module, batch: PretrainBatch) -> Tensor:
        """Return the weighted sum of the objectives' losses, shape ()."""
        return objectives_loss(model, batch, self.settings)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the scores of `objective_scores` on the held-out corpus, with all cells."""
        if self.held_out is None:
            return {}
        return objective_scores(model, self._batches_of(self.held_out, 0), self.accelerator)

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Score the held-out corpus with images and without."""
        if self.held_out is None:
            return unscored(self.settings, epoch)
        batches = self._batches_of(self.held_out, 0)
        return Report(
            score_corpus(
                self.model, model, batches, self.accelerator, self.settings.eval_split, epoch
            )
        )

    def _batches_of(self, sentences: Sentences, sampled_cells: int) -> BatchReader:
        words = cast(WordPieces, self.vocabulary.words)
        return BatchReader(self.reader, sentences, words, self.settings, sampled_cells)

    def vocabulary_record(self) -> Mapping[str, Any]:
        """Return the word pieces and the answers."""
        return self.vocabulary.record()


# Pairs of an image and a sentence in LXMERT's files (Tan and Bansal 2019, section 3.2), which the
# published run reads: 5.4 million are region captions. A few percent are about held-out images.
LXMERT_SENTENCES = 9_180_000


def note_on_regions(corpus: Corpus, settings: PretrainSettings, sentences: int) -> str:
    """Return how many updates fewer than in the paper a corpus without region captions leads to.

    "" for a corpus that has them or lacks the other texts of Visual Genome, and where the settings
    state the number of updates.
    """
    is_lxmerts = NO_COCO in settings.train_split.split("+")
    if VG_REGIONS in corpus.sources or not is_lxmerts or settings.updates:
        return ""
    updates = settings.epochs * updates_an_epoch(settings, sentences)
    published = round(settings.epochs * LXMERT_SENTENCES / settings.batch_size, -3)
    return (
        f"corpus {settings.train_split!r} has no region captions of Visual Genome: {updates:,} "
        f"updates, and about {published:,.0f} with the paper's corpus; make it with "
        f"region_descriptions.json, or pass --set updates={published:.0f}"
    )


def encode_corpus(
    corpus: Corpus,
    name: str,
    vocabulary: Vocabulary,
    store: FeatureStore,
    settings: PretrainSettings,
) -> Sentences:
    """Return the sentences of a corpus as numbers; raises as `encode` does."""
    return encode(
        corpus,
        name,
        store,
        words=cast(WordPieces, vocabulary.words),
        answers=vocabulary.answers,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )


def make_model(settings: PretrainSettings, norm: FeatureNorm, vocabulary: Vocabulary) -> Pretrainer:
    """Return a model of random weights."""
    tokens, answers = vocabulary.words.size, len(vocabulary.answers)
    return Pretrainer(settings, norm, tokens=tokens, answers=answers)


def _choose_answers(
    corpus: Corpus, settings: PretrainSettings, listed: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the classes of question answering, () if that has no weight.

    `listed` are the answers of a file, or (). Raises ClipfeatError if no answer is common enough.
    """
    if not settings.objectives.answers:
        return ()
    answers = listed or corpus.common_answers(min_count=settings.min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of corpus {settings.train_split!r} is that of {settings.min_answer_count} "
            "questions; pass --set min_answer_count=1, or --set objectives.answers=0",
            code="E-ANSWERS-NONE",
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
        statistics = feature_statistics(
            store,
            sentences.image_ids,
            **settings.of_norm(),
            seed=settings.seed,
        )
    regions = bool(store.identity.regions)
    norm = FeatureNorm(statistics, blind=settings.blind, regions=regions)
    with seeded(settings.seed):
        model = make_model(settings, norm, vocabulary)
    if pretrained is not None:
        _start_from(pretrained, model, vocabulary)
    elif settings.model.bert:
        bert = load_bert(model.encoder.bert, find_bert(settings.model.bert))
        model.word.start_from(bert)
    return model


def _start_from(pretrained: Pretrained, model: Pretrainer, vocabulary: Vocabulary) -> None:
    """Copy the weights of the previous stage into a model; heads that it lacked stay random."""
    pretrained.fill(model.encoder, "encoder")
    pretrained.fill(model.word, "word")
    pretrained.fill(model.matching, "matching")
    if model.answer is not None:
        pretrained.fill_answers(model.answer, vocabulary.answers)
    if model.cell is not None and pretrained.has("cell"):
        pretrained.fill(model.cell, "cell")
    logger.info(f"starting from {pretrained.folder}")


EVAL_EPOCH = 1 << 31  # not one of training: a split is masked in the same way every time
OBJECTIVES = ("words", "matching", "answers", "cells")


@torch.inference_mode()
def objective_scores(
    model: nn.Module, batches: BatchReader, accelerator: Accelerator
) -> dict[str, float]:
    """Return "score", minus the weighted loss, and of each objective its loss and its accuracy.

    The accuracies, "words", "matching" and "answers", are in percent; masked pieces are judged
    where the text is about the image. With several processes each computes a part of the batches.
    """
    model.eval()
    order = epoch_order(batches.sentences.image_of_sentence, seed=0, epoch=0)
    sums = torch.zeros(len(OBJECTIVES), 4, dtype=torch.float64, device=accelerator.device)
    for _, batch in each_batch(
        order,
        lambda numbers: batches.read(numbers, EVAL_EPOCH),
        accelerator,
        size=eval_batch_size(batches.settings),
        doing="evaluating",
        fetch=batches.fetch,
    ):
        for name, tally in tallies(model(batch), batch).items():
            sums[OBJECTIVES.index(name)] += torch.stack([n.double() for n in tally])
    return _scores(torch.as_tensor(accelerator.reduce(sums, "sum")).tolist(), batches.settings)


def _scores(sums: list[list[float]], settings: PretrainSettings) -> dict[str, float]:
    """Return losses and accuracies, given the sums of each objective's tallies."""
    scores: dict[str, float] = {}
    total = 0.0
    for name, (loss, predicted, right, judged) in zip(OBJECTIVES, sums, strict=True):
        weight = getattr(settings.objectives, name)
        if weight and predicted:
            scores[f"{name}_loss"] = round(loss / predicted, 4)
            total += weight * loss / predicted
        if weight and judged:
            scores[name] = round(100 * right / judged, 2)
    return {"score": round(-total, 4), **scores}


def load_run(run: Path) -> TrainedEncoder:
    """Return the best model of a run folder, on the CPU; raises UsageError as `load_trained` does."""
    return load_trained(
        run,
        TASK,
        PretrainSettings,
        read_vocabulary=read_vocabulary,
        norm="norm",
        build=make_model,
    )


def eval_pretrain(run: Path, request: EvalRequest) -> dict[str, Any]:
    """Return how much of a corpus a run's best model predicts, with images and without.

    Raises UsageError for a store with other features than the run's.
    """
    trained, store, data = request.open(load_run(run))
    settings = trained.settings
    accelerator = accelerator_of_trained(request.device, settings)
    require_features(store, trained.manifest)
    require_fit(settings.model, store)
    corpus = read_corpus(find_corpus(data, request.split))
    sentences = encode_corpus(corpus, request.split, trained.vocabulary, store, settings)
    reader = RecordReader(store, accelerator.device)
    words = cast(WordPieces, trained.vocabulary.words)
    batches = BatchReader(reader, sentences, words, settings, sampled_cells=0)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    with inference_errors(settings.precision):
        return score_corpus(
            trained.model, model, batches, accelerator, request.split, trained.epoch
        )


def score_corpus(
    encoder: Pretrainer,
    model: nn.Module,
    batches: BatchReader,
    accelerator: Accelerator,
    name: str,
    epoch: int,
) -> dict[str, Any]:
    """Return the scores on a corpus and, under "without_image", those with features as zeros.

    `model` is `encoder`, as the accelerator has prepared it.
    """
    blind = batches.settings.blind
    result = {"split": name, "epoch": epoch, "blind": blind, "n": len(batches.sentences)}
    result |= objective_scores(model, batches, accelerator)
    result["without_image"] = None
    if not blind:
        encoder.norm.blind = True
        result["without_image"] = objective_scores(model, batches, accelerator)
        encoder.norm.blind = False
    return result


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if text := format_unscored(result):
        return text
    labels = {
        "words": "masked word pieces",
        "matching": "text and image match or do not",
        "answers": "answers",
    }
    lines = [
        f"corpus {result['split']}: {counted(result['n'], 'sentence')}, epoch {result['epoch']}"
    ]
    for name, label in labels.items():
        if name in result:
            line = f"{result[name]:6.2f}  {label}"
            blind = result["without_image"]
            lines.append(line if blind is None else f"{line} ({blind[name]:.2f} without the image)")
    return "\n".join([*lines, f"{-result['score']:6.3f}  loss"])
