"""From the questions of a split to examples: its vocabulary, and its images in a store."""

import functools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...base.errors import ClipfeatError, UsageError
from ...base.files import local_path
from ...featstore import FeatureStore
from ..data.ids import JPEG, find_images
from ..data.questions import (
    Question,
    QuestionId,
    QuestionSplit,
    format_scores,
    read_predictions,
    write_predictions,
)
from ..data.vocabulary import Vocabulary, answer_classes, read_answer_list, require_known
from ..data.vqa_files import read_questions
from ..devices import accelerator_of_trained, accelerator_on, inference_errors
from ..log import LoopTimes
from ..metrics.vqa import SCORES
from ..models.start import choose_words, find_start
from ..records import RecordReader
from .answering import (
    Examples,
    GroundedBatch,
    Inputs,
    Predictions,
    Targets,
    make_examples,
    predict,
    require_apart,
    train_grounded,
    write_results,
)
from .settings import VqaSettings
from .vqa_predict import TrainedVqa, load_run


def choose_answers(
    split: QuestionSplit, *, min_answer_count: int, answer_list: str = ""
) -> tuple[str, ...]:
    """Return the common answers of a training split, or those of a file.

    Raises ClipfeatError where no answer is common enough to be learned, UsageError for a file
    of other answers.
    """
    common = [annotation.common() for annotation in (split.annotations or {}).values()]
    if answer_list:
        answers = read_answer_list(local_path(answer_list))
        if not set(answers).intersection(common):
            raise UsageError(
                f"answer_list {answer_list}: none of its {len(answers)} answers, such as "
                f"{answers[0]!r}, is one of split {split.name!r}; pass this data set's list"
            )
    else:
        answers = answer_classes(common, min_count=min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of split {split.name!r} occurs {min_answer_count} times in its "
            f"{len(common)} questions; pass --set min_answer_count=1"
        )
    return answers


def store_ids(
    questions: Sequence[Question], split: str, store: Container[str], *, skip_missing: int = 0
) -> list[str | None]:
    """Return the store's id of each question's image, None where it has no features.

    Raises ClipfeatError that counts and names the images without features where more than
    `skip_missing` questions ask about them, and where one id would be two images.
    """
    ids = find_images(
        [question.candidates for question in questions],
        store,
        texts=f"questions of split {split!r} ask",
        skip_missing=skip_missing,
    )
    _require_one_collection(questions, ids, split)
    return ids


def _require_one_collection(
    questions: Sequence[Question], ids: Sequence[str | None], split: str
) -> None:
    """Raise ClipfeatError where a bare number would be an image of COCO and of Visual Genome."""
    owners: dict[str, str] = {}
    for question, stored in zip(questions, ids, strict=True):
        if stored is None or not stored.removesuffix(JPEG).isdigit():
            continue
        owner = owners.setdefault(stored, question.collection)
        if owner != question.collection:
            raise ClipfeatError(
                f"split {split!r} has questions about image {stored} of {owner} and of "
                f"{question.collection}, and the store has one image {stored}; extract Visual "
                f"Genome's images as VG_<id>, such as VG_{stored}: write these ids into the "
                "manifest, for instance through a table"
            )


def encode(
    split: QuestionSplit,
    vocabulary: Vocabulary,
    store: Container[str],
    *,
    max_tokens: int,
    skip_missing: int = 0,
) -> Examples:
    """Return the split's questions as numbers, each with its image's id in `store`.

    Questions about images without features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    ids = store_ids(split.questions, split.name, store, skip_missing=skip_missing)
    kept = [q for q, stored in zip(split.questions, ids, strict=True) if stored is not None]
    if not kept:
        raise ClipfeatError(f"split {split.name!r}: none of its images has features in the store")
    texts = [question.text for question in kept]
    examples = make_examples(
        [question.question_id for question in kept],
        [stored for stored in ids if stored is not None],
        texts,
        _targets(split, kept, vocabulary),
        words=vocabulary.words,
        max_tokens=max_tokens,
    )
    known = vocabulary.words.known(examples.tokens)
    require_known(known, texts, of=f"split {split.name!r}", what="questions")
    return examples


def _targets(
    split: QuestionSplit, questions: Sequence[Question], vocabulary: Vocabulary
) -> Targets | None:
    if split.annotations is None:
        return None
    numbers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    soft = (split.annotations[question.question_id].soft() for question in questions)
    return Targets.of(
        [
            {numbers[answer]: score for answer, score in scores.items() if answer in numbers}
            for scores in soft
        ]
    )


@dataclass(frozen=True)
class Asked:
    """A split to answer: its questions, and those of them whose images have features."""

    split: QuestionSplit
    examples: Examples

    def complete(self, predictions: Mapping[QuestionId, str]) -> dict[QuestionId, str]:
        """Return an answer to every question: the empty one where its image has no features."""
        return {question_id: predictions.get(question_id, "") for question_id in self.split.ids}

    def score_table(self, predictions: Path) -> dict[str, Any]:
        """Return the score of each question in percent, with the image that it asks about."""
        scores = self.split.score_each(read_predictions(predictions, self.split))
        image_of = {q.question_id: q.candidates[0] for q in self.split.questions}
        for question_id, image in zip(self.examples.ids, self.examples.image_of_text, strict=True):
            image_of[question_id] = self.examples.image_ids[image]
        return {
            "split": self.split.name,
            "ids": list(scores),
            "images": [image_of[question_id] for question_id in scores],
            "scores": [round(100 * score, 2) for score in scores.values()],
        }


def eval_vqa(
    run: Path,
    *,
    split: str,
    store: Path | None,
    data: Path | None,
    device: str | None,
    skip_missing: int | None = None,
) -> dict[str, Any]:
    """Answer a split with a run's best model, write the answers into the run, return the scores.

    `store`, `data` and `skip_missing` are by default those of the run. The scores are None on a
    split without annotations. Raises UsageError for a store with other features than the run's.
    """
    trained = load_run(run)
    accelerator = accelerator_of_trained(device, trained.settings)
    features = FeatureStore.open(store or Path(trained.card.store))
    trained.require_store(features)
    settings = trained.settings
    folder = data or Path(trained.card.data)
    questions = read_questions(settings.dataset, folder, split, annotated=False)
    examples = encode(
        questions,
        trained.vocabulary,
        features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing if skip_missing is None else skip_missing,
    )
    name = f"predictions_{split}.json"
    reader = RecordReader(features, accelerator.device)
    return answer_split(trained, Asked(questions, examples), reader, accelerator, name)


def answer_split(
    run: TrainedVqa, asked: Asked, reader: RecordReader, accelerator: Accelerator, name: str
) -> dict[str, Any]:
    """Answer every question of a split, write the answers into the run as `name`, score them.

    All processes answer; the first writes and scores, and the result of the others is empty.
    """
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    answers = run.vocabulary.answers
    with inference_errors(run.settings.precision):
        predictions = predict(model, reader, asked.examples, answers, run.settings, accelerator)
    if not accelerator.is_main_process:
        return {}
    split, path = asked.split, run.folder / name
    write_predictions(path, asked.complete(predictions), split)
    scores: dict[str, Any] = {"n": len(split.questions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = split.score(read_predictions(path, split))
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **scores,
        "skipped": len(split.questions) - len(asked.examples),
        "predictions": str(path),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    lines = [f"split {result['split']}: {result['n']} questions, epoch {result['epoch']}"]
    if result["overall"] is None:
        lines.append("no annotations here: predictions only, nothing scored")
    else:
        lines += format_scores(result)
    if result["skipped"]:
        lines.append(f"{result['skipped']} questions skipped: their images have no features")
    return "\n".join([*lines, result["predictions"]])


PREDICTIONS = "predictions.json"


def train_vqa(
    settings: VqaSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one split, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.run` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    train_split = read_questions(settings.dataset, data, settings.train_split, annotated=True)
    held_out = _read_held_out(settings, data, train_split)
    answers = choose_answers(
        train_split,
        min_answer_count=settings.min_answer_count,
        answer_list=settings.answer_list,
    )
    texts = (question.text for question in train_split.questions)
    vocabulary = Vocabulary(choose_words(settings.model, pretrained, texts), answers)
    encode_split = functools.partial(
        encode,
        vocabulary=vocabulary,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    examples = encode_split(train_split)
    asked = None if held_out is None else Asked(held_out, encode_split(held_out))
    given = (local_path(settings.answer_list),) if settings.answer_list else ()
    inputs = Inputs(
        task="vqa",
        features=features,
        data=data,
        files=(*train_split.files, *(held_out.files if held_out else ()), *given),
        vocabulary=vocabulary,
        pretrained=pretrained,
        examples=examples,
        scored=asked.examples if asked else None,
    )
    reader, times = train_grounded(
        inputs,
        settings,
        run=out,
        accelerator=accelerator,
        loss_of=loss_of,
        score=functools.partial(_score, asked) if asked else None,
    )
    best = load_run(out)
    result: dict[str, Any] = {"split": "", "epoch": best.epoch, "blind": settings.blind}
    if asked is not None:
        result = answer_split(best, asked, reader, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_results(out, result, asked.score_table(out / PREDICTIONS) if asked else None)
    return result, times


def loss_of(model: nn.Module, batch: GroundedBatch) -> Tensor:
    """Return the binary cross-entropy against the soft scores, summed over answers and heads.

    The sum over answers (mean times their number) is what Pythia and MCAN use; each further
    head of a model adds its own, as in MoVie+MCAN.
    """
    found = model(*batch.inputs)
    losses = [
        binary_cross_entropy_with_logits(logits, batch.targets) * logits.shape[1]
        for logits in (found.logits, *found.auxiliary_logits)
    ]
    return torch.stack(losses).sum()


def _score(asked: Asked, predictions: Predictions) -> dict[str, float]:
    scores = asked.split.score(asked.complete(predictions))
    return {"score": scores["overall"], **scores["by_answer_type"]}


def _read_held_out(
    settings: VqaSettings, data: Path, train_split: QuestionSplit
) -> QuestionSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    split = read_questions(settings.dataset, data, settings.eval_split, annotated=True)
    require_apart(settings, train_split.ids, split.ids, of="questions")
    return split
