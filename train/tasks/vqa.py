"""The VQA task: from the questions of a split to a trained model and its scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...base.errors import ClipfeatError, UsageError
from ...base.files import require_file
from ...base.text import counted
from ..checkpoint import EvalRequest
from ..data.ids import JPEG, StoredIds, find_images
from ..data.questions import (
    Question,
    QuestionId,
    QuestionSplit,
    format_scores,
    read_predictions,
    write_predictions,
)
from ..data.vocabulary import Vocabulary, answer_classes, read_answer_list
from ..data.vqa_files import read_questions
from ..devices import accelerator_of_trained
from ..metrics.vqa import SCORES
from ..task import Report, format_unscored
from .answering import (
    AnsweringTask,
    EvalSplit,
    Examples,
    encode_texts,
    predict_with,
    require_store,
)
from .settings import VqaSettings
from .vqa_predict import load_run

PREDICTIONS = "predictions.json"


def choose_answers(
    *splits: QuestionSplit, min_answer_count: int, answer_list: str = ""
) -> tuple[str, ...]:
    """Return the common answers of splits, counted together, or those of a file.

    Raises ClipfeatError where no answer is common enough to be learned, UsageError for a file
    of other answers.
    """
    name = "+".join(split.name for split in splits)
    annotations = [each for split in splits for each in (split.annotations or {}).values()]
    common = [answer for each in annotations if (answer := each.common()) is not None]
    if answer_list:
        answers = read_answer_list(Path(answer_list))
        if not set(answers).intersection(common):
            raise UsageError(
                f"answer_list {answer_list}: none of its {len(answers)} answers, such as "
                f"{answers[0]!r}, is one of split {name!r}; pass this data set's list",
                code="E-ANSWERS-LIST",
            )
    else:
        answers = answer_classes(common, min_count=min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of split {name!r} occurs {min_answer_count} times in its "
            f"{len(annotations)} questions; pass --set min_answer_count=1",
            code="E-ANSWERS-NONE",
        )
    return answers


def store_ids(
    questions: Sequence[Question], split: str, store: StoredIds, *, skip_missing: int = 0
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
    store: StoredIds,
    *,
    max_tokens: int,
    skip_missing: int = 0,
) -> Examples:
    """Return the split's questions as numbers, each with its image's id in `store`.

    Questions about images without features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    return encode_texts(
        split,
        store_ids(split.questions, split.name, store, skip_missing=skip_missing),
        _soft_answers(split, vocabulary),
        words=vocabulary.words,
        max_tokens=max_tokens,
        noun="questions",
    )


def _soft_answers(split: QuestionSplit, vocabulary: Vocabulary) -> list[dict[int, float]] | None:
    """Return {number of the answer: score} of each question, None without annotations."""
    if split.annotations is None:
        return None
    numbers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    soft = (split.annotations[question_id].soft() for question_id in split.ids)
    return [
        {numbers[answer]: score for answer, score in scores.items() if answer in numbers}
        for scores in soft
    ]


class VqaTask(AnsweringTask[VqaSettings, QuestionSplit]):
    """Train on the questions of one split, and score the model on another."""

    name = "vqa"
    noun = "questions"
    _answer_files: tuple[Path, ...] = ()
    affirmative = "yes"

    def read(self, split: str) -> QuestionSplit:
        """Return a split's questions with their annotations."""
        return read_questions(self.settings.dataset, self.data, split, annotated=True)

    def choose_answers(
        self, training: QuestionSplit, held_out: QuestionSplit | None
    ) -> tuple[str, ...]:
        """Return the common answers of `answer_split`, or those of `answer_list`.

        Raises UsageError (E-ANSWERS-SPLIT) where a file of `answer_split` is missing.
        """
        settings = self.settings
        counted = [training]
        if settings.answer_split not in ("", training.name) and not settings.answer_list:
            known = {split.name: split for split in (training, held_out) if split is not None}
            parts = dict.fromkeys(settings.answer_split.split("+"))
            counted = [known.get(part) or self._counted(part) for part in parts]
        self._answer_files = tuple(file for split in counted for file in split.files)
        return choose_answers(
            *counted,
            min_answer_count=settings.min_answer_count,
            answer_list=settings.answer_list,
        )

    def _counted(self, part: str) -> QuestionSplit:
        try:
            return self.read(part)
        except UsageError as error:
            raise UsageError(
                f"answer_split {self.settings.answer_split}: {error}; or pass --set answer_split= "
                "to count the answers of train_split",
                code="E-ANSWERS-SPLIT",
            ) from None

    def answer_files(self) -> tuple[Path, ...]:
        """Return the file of `answer_list`, or the files of `answer_split`."""
        answer_list = self.settings.answer_list
        return (Path(answer_list),) if answer_list else self._answer_files

    def encode(self, split: QuestionSplit) -> Examples:
        """Return a split's questions as numbers."""
        return encode(
            split,
            self.vocabulary,
            self.store,
            max_tokens=self.settings.max_tokens,
            skip_missing=self.settings.skip_missing,
        )

    def answer_loss(
        self, logits: Float[Tensor, "text answer"], targets: Float32[Tensor, "text answer"]
    ) -> Tensor:
        """Return the binary cross-entropy against the soft scores, shape ()."""
        return soft_score_loss(logits, targets)

    def score(self, split: QuestionSplit, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the official accuracy, over all and by type of answer."""
        scores = split.score(complete(split, answers))
        return {"score": scores["overall"], **scores["by_answer_type"]}

    def score_file(
        self,
        eval_split: EvalSplit[QuestionSplit],
        answers: Mapping[Any, str],
        run: Path,
        epoch: int,
    ) -> Report:
        """Write the answers to a split's questions into the run, and score that file."""
        path = run / PREDICTIONS
        result = score_answers(eval_split, answers, path, self.settings, epoch)
        scores = eval_split.split.score_each(read_predictions(path, eval_split.split))
        return Report(
            result,
            eval_split.score_table({each: round(100 * score, 2) for each, score in scores.items()}),
        )


def complete(split: QuestionSplit, answers: Mapping[QuestionId, str]) -> dict[QuestionId, str]:
    """Return an answer to every question: "" where its image has no features."""
    return {question_id: answers.get(question_id, "") for question_id in split.ids}


def soft_score_loss(
    logits: Float[Tensor, "text answer"], targets: Float32[Tensor, "text answer"]
) -> Tensor:
    """Return the binary cross-entropy against the soft scores, summed over answers; shape ().

    The sum over answers (mean times their number) is what Pythia and MCAN use.
    """
    return binary_cross_entropy_with_logits(logits, targets) * logits.shape[1]


def score_answers(
    eval_split: EvalSplit[QuestionSplit],
    answers: Mapping[QuestionId, str],
    path: Path,
    settings: VqaSettings,
    epoch: int,
) -> dict[str, Any]:
    """Write the answers to every question of a split to `path`; return the scores of that file."""
    split = eval_split.split
    write_predictions(path, complete(split, answers), split)
    scores: dict[str, Any] = {"n": len(split.questions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = split.score(read_predictions(path, split))
    return {
        "split": split.name,
        "epoch": epoch,
        "blind": settings.blind,
        **scores,
        "skipped": eval_split.skipped,
        "predictions": str(path),
    }


def eval_vqa(run: Path, request: EvalRequest) -> dict[str, Any]:
    """Answer a split with a run's best model, write the answers into the run, return the scores.

    The scores are None on a split without annotations. Raises UsageError for a store with other
    features than the run's.
    """
    trained, store, data = request.open(load_run(run))
    settings = trained.settings
    require_file(path := run / f"predictions_{request.split}.json", "predictions")
    accelerator = accelerator_of_trained(request.device, settings)
    require_store(trained, store)
    split = read_questions(settings.dataset, data, request.split, annotated=False)
    examples = encode(
        split,
        trained.vocabulary,
        store,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    answers = predict_with(trained, store, examples, accelerator)
    return score_answers(EvalSplit(split, examples), answers, path, settings, trained.epoch)


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if text := format_unscored(result):
        return text
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
