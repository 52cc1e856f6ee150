"""The VQA task: from the questions of a split to a trained model and its scores."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...base.errors import ClipfeatError, UsageError
from ...base.files import require_file
from ...base.text import counted
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
from ..devices import accelerator_of_trained, accelerator_on
from ..metrics.vqa import SCORES
from ..models.start import choose_words, find_start
from ..records import RecordReader
from ..task import Report, require_apart
from .answering import (
    AnswerBatch,
    AnsweringTask,
    Examples,
    SoftAnswers,
    make_examples,
    predict_with,
    require_store,
)
from .settings import VqaSettings
from .vqa_predict import load_run

PREDICTIONS = "predictions.json"


def choose_answers(
    split: QuestionSplit, *, min_answer_count: int, answer_list: str = ""
) -> tuple[str, ...]:
    """Return the common answers of a training split, or those of a file.

    Raises ClipfeatError where no answer is common enough to be learned, UsageError for a file
    of other answers.
    """
    common = [annotation.common() for annotation in (split.annotations or {}).values()]
    if answer_list:
        answers = read_answer_list(Path(answer_list))
        if not set(answers).intersection(common):
            raise UsageError(
                f"answer_list {answer_list}: none of its {len(answers)} answers, such as "
                f"{answers[0]!r}, is one of split {split.name!r}; pass this data set's list",
                code="E-ANSWERS-LIST",
            )
    else:
        answers = answer_classes(common, min_count=min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of split {split.name!r} occurs {min_answer_count} times in its "
            f"{len(common)} questions; pass --set min_answer_count=1",
            code="E-ANSWERS-NONE",
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
                "manifest, for instance through a table",
                code="E-IMAGES-SAME",
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
        raise ClipfeatError(
            f"split {split.name!r}: none of its images has features in the store",
            code="E-IMAGES-NONE",
        )
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
    require_known(known, texts, of=f"split {split.name!r}", noun="questions")
    return examples


def _targets(
    split: QuestionSplit, questions: Sequence[Question], vocabulary: Vocabulary
) -> SoftAnswers | None:
    if split.annotations is None:
        return None
    numbers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    soft = (split.annotations[question.question_id].soft() for question in questions)
    return SoftAnswers.of(
        [
            {numbers[answer]: score for answer, score in scores.items() if answer in numbers}
            for scores in soft
        ]
    )


@dataclass(frozen=True)
class EvalSplit:
    """A split to answer: its questions, and the examples of those whose images have features."""

    split: QuestionSplit
    examples: Examples

    def complete(self, answers: Mapping[QuestionId, str]) -> dict[QuestionId, str]:
        """Return an answer to every question: "" where its image has no features."""
        return {question_id: answers.get(question_id, "") for question_id in self.split.ids}

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


class VqaTask(AnsweringTask[VqaSettings]):
    """Train on the questions of one split, and score the model on another."""

    name = "vqa"

    def __init__(
        self, settings: VqaSettings, *, store: Path, data: Path, device: str | None = None
    ):
        """Read both splits, and make the model that training begins with.

        Raises UsageError before any work, StoreError for a store that cannot be read, and
        ClipfeatError for data that do not fit it.
        """
        features = FeatureStore.open(store)
        settings, pretrained = find_start(settings, features)
        accelerator = accelerator_on(device, settings)
        training = read_questions(settings.dataset, data, settings.train_split, annotated=True)
        held_out = None
        if settings.eval_split:
            held_out = read_questions(settings.dataset, data, settings.eval_split, annotated=True)
            require_apart(settings, training.ids, held_out.ids, of="questions")
        answers = choose_answers(
            training, min_answer_count=settings.min_answer_count, answer_list=settings.answer_list
        )
        texts = (question.text for question in training.questions)
        vocabulary = Vocabulary(choose_words(settings.model, pretrained, texts), answers)
        limits = {"max_tokens": settings.max_tokens, "skip_missing": settings.skip_missing}
        examples = encode(training, vocabulary, features, **limits)
        self.eval_split = (
            EvalSplit(held_out, encode(held_out, vocabulary, features, **limits))
            if held_out
            else None
        )
        answer_list = (Path(settings.answer_list),) if settings.answer_list else ()
        super().__init__(
            settings,
            store=features,
            data=data,
            files=(*training.files, *(held_out.files if held_out else ()), *answer_list),
            vocabulary=vocabulary,
            pretrained=pretrained,
            examples=examples,
            held_out=self.eval_split.examples if self.eval_split else None,
            accelerator=accelerator,
        )

    def loss(self, model: nn.Module, batch: AnswerBatch) -> Tensor:
        """Return the binary cross-entropy against the soft scores, shape ()."""
        return soft_score_loss(model, batch)

    def score(self, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the official accuracy, over all and by type of answer."""
        assert self.eval_split is not None
        scores = self.eval_split.split.score(self.eval_split.complete(answers))
        return {"score": scores["overall"], **scores["by_answer_type"]}

    def score_file(self, answers: Mapping[Any, str], run: Path, epoch: int) -> Report:
        """Write the answers to the held-out questions into the run, and score that file."""
        assert self.eval_split is not None
        path = run / PREDICTIONS
        result = score_answers(self.eval_split, answers, path, self.settings, epoch)
        return Report(result, self.eval_split.score_table(path))


def soft_score_loss(model: nn.Module, batch: AnswerBatch) -> Tensor:
    """Return the binary cross-entropy against the soft scores, summed over answers and heads.

    The sum over answers (mean times their number) is what Pythia and MCAN use; each further
    head of a model adds its own, as in MoVie+MCAN. Shape ().
    """
    outputs = model(*batch.inputs)
    losses = [
        binary_cross_entropy_with_logits(logits, batch.targets) * logits.shape[1]
        for logits in (outputs.logits, *outputs.auxiliary_logits)
    ]
    return torch.stack(losses).sum()


def score_answers(
    eval_split: EvalSplit,
    answers: Mapping[QuestionId, str],
    path: Path,
    settings: VqaSettings,
    epoch: int,
) -> dict[str, Any]:
    """Write the answers to every question of a split to `path`; return the scores of that file."""
    split = eval_split.split
    write_predictions(path, eval_split.complete(answers), split)
    scores: dict[str, Any] = {"n": len(split.questions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = split.score(read_predictions(path, split))
    return {
        "split": split.name,
        "epoch": epoch,
        "blind": settings.blind,
        **scores,
        "skipped": len(split.questions) - len(eval_split.examples),
        "predictions": str(path),
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
    settings = trained.settings
    require_file(path := run / f"predictions_{split}.json", "predictions")
    accelerator = accelerator_of_trained(device, settings)
    features = FeatureStore.open(store or Path(trained.manifest.store))
    require_store(trained, features)
    folder = data or Path(trained.manifest.data)
    questions = read_questions(settings.dataset, folder, split, annotated=False)
    examples = encode(
        questions,
        trained.vocabulary,
        features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing if skip_missing is None else skip_missing,
    )
    answers = predict_with(
        trained, RecordReader(features, accelerator.device), examples, accelerator
    )
    return score_answers(EvalSplit(questions, examples), answers, path, settings, trained.epoch)


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    lines = [
        f"split {result['split']}: {counted(result['n'], 'question')}, epoch {result['epoch']}"
    ]
    if result["overall"] is None:
        lines.append("no annotations here: predictions only, nothing scored")
    else:
        lines += format_scores(result)
    if result["skipped"]:
        lines.append(
            f"{counted(result['skipped'], 'question')} skipped, about images without features"
        )
    return "\n".join([*lines, result["predictions"]])
