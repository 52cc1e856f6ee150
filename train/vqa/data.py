"""From the questions of a split to examples: its vocabulary, and its images in a store."""

from collections.abc import Container, Sequence

from ...base.errors import ClipfeatError, UsageError
from ...base.files import local_path
from ..grounded.examples import Examples, Targets
from ..grounded.images import ENDING, find_images
from ..grounded.train import make_examples
from ..texts.unknown import require_known
from ..texts.vocabulary import Vocabulary
from .answers import answer_classes, read_answer_list
from .datasets.split import Question, Split


def choose_answers(
    split: Split, *, min_answer_count: int, answer_list: str = ""
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
        if stored is None or not stored.removesuffix(ENDING).isdigit():
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
    split: Split,
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


def _targets(split: Split, questions: Sequence[Question], vocabulary: Vocabulary) -> Targets | None:
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
