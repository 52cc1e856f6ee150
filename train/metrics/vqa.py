"""VQA v2's accuracy: the official normalisation of answers, and their scores."""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from ...base.errors import ClipfeatError

# Contractions that the published table restores, from the word without any one of its apostrophes.
# "let's" and "she's" are not among them: "lets", for example, is a word of its own.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
""".split()  # noqa: SIM905
RESTORED = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTIONS
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one entry of the table that removes an apostrophe
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {word: str(value) for value, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # not the apostrophe, nor the colon of "2:50"
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # the published script removes at most so many: it passes a flag as the count


@functools.lru_cache(maxsize=1 << 16)  # answers repeat: a split has ten for each question
def normalize_answer(text: str) -> str:
    """Return an answer as the VQA evaluation compares it.

    The rules are those of visualqa.org/evaluation, in the order and with the quirks of its
    published script: a mark beside a space is removed everywhere in the answer, any other becomes
    a space; where the answer has a comma between digits, all marks are removed; a period is
    removed unless a digit follows it. Then the answer becomes lower case, number words become
    digits, articles are removed and apostrophes restored.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    marked = text
    in_number = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        marked = marked.replace(mark, "" if beside_space or in_number else " ")
    words = PERIOD.sub("", marked, count=MAX_PERIODS).lower().split()
    digits = (DIGITS.get(word, word) for word in words)
    return " ".join(RESTORED.get(word, word) for word in digits if word not in ARTICLES)


def soft_score(matches: int, annotators: int) -> float:
    """Return the accuracy, 0 to 1, of an answer that `matches` of `annotators` people gave.

    It is the mean of min(1, matches / 3) over the subsets that leave one annotator out
    (visualqa.org/evaluation); with ten annotators 0.3, 0.6, 0.9, then 1.
    """
    without_a_match = matches * min(1, (matches - 1) / 3)
    without_another = (annotators - matches) * min(1, matches / 3)
    return (without_a_match + without_another) / annotators


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Return {normalised answer: soft score} of all answers of a question's annotators."""
    counts = Counter(map(normalize_answer, answers))
    return {answer: soft_score(count, len(answers)) for answer, count in counts.items()}


Id = TypeVar("Id", bound=int | str)
SCORES = ("overall", "by_answer_type", "by_question_type")


@runtime_checkable
class Scored(Protocol):
    """What a score needs to know of one question."""

    @property
    def answer_type(self) -> str:
        """The type of its answer, such as "yes/no"; "" where the data set has no types."""
        ...

    @property
    def question_type(self) -> str:
        """The type of the question, likewise."""
        ...

    @property
    def is_scored(self) -> bool:
        """Whether the question counts in the score of its split."""
        ...

    def accuracy(self, answer: str) -> float:
        """Return the accuracy, 0 to 1, of an answer."""
        ...


class Annotation(NamedTuple):
    """The answers that people gave to one question, and its types.

    Data sets with another accuracy have a class of their own in `vqa_like`.
    """

    answers: tuple[str, ...]  # ten in the official files
    multiple_choice_answer: str  # the most common one
    answer_type: str  # "yes/no", "number", "other"
    question_type: str  # the question's first words, such as "how many"

    def soft(self) -> dict[str, float]:
        """Return {normalised answer: soft score}."""
        return soft_scores(self.answers)

    def common(self) -> str:
        """Return the most common answer, normalised."""
        return normalize_answer(self.multiple_choice_answer)

    def accuracy(self, answer: str) -> float:
        """Return the accuracy, 0 to 1, of an answer."""
        return accuracy(answer, self.answers)

    @property
    def is_scored(self) -> bool:
        """Whether the question counts in the score of its split."""
        return True


def accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Return the accuracy, 0 to 1, of `answer` against the answers of the annotators.

    As in the published script, answers are normalised only where the annotators differ; where
    they agree exactly, `answer` must agree exactly too (except for spaces at its ends).
    """
    references = [_on_one_line(text) for text in annotators]
    predicted = _on_one_line(answer)
    if len(set(references)) > 1:
        references = [normalize_answer(text) for text in references]
        predicted = normalize_answer(predicted)
    return agreement(predicted, references)


def agreement(answer: str, references: Sequence[str]) -> float:
    """Return the accuracy, 0 to 1, of `answer` against answers that are compared as they are."""
    matches = references.count(answer)
    # `soft_score` is equal except for the last bit, which decides how 30.625 is rounded.
    return sum(min(1, (matches - (text == answer)) / 3) for text in references) / len(references)


def score_each(predictions: Mapping[Id, str], annotations: Mapping[Id, Scored]) -> dict[Id, float]:
    """Return {question id: accuracy, 0 to 1} of every question that counts.

    Raises ClipfeatError unless both mappings hold the same questions, and where none counts.
    """
    require_same_questions(predictions, annotations)
    scores = {
        question_id: annotation.accuracy(predictions[question_id])
        for question_id, annotation in annotations.items()
        if annotation.is_scored
    }
    if not scores:
        raise ClipfeatError(
            f"none of the {len(annotations)} questions counts in the score; score another split",
            code="E-DATA-EMPTY",
        )
    return scores


def score_split(predictions: Mapping[Id, str], annotations: Mapping[Id, Scored]) -> dict[str, Any]:
    """Return {n, overall, by_answer_type, by_question_type}: accuracies in percent.

    Both mappings are by question id. Raises ClipfeatError unless they hold the same questions,
    so that every question is scored exactly once.
    """
    scores = score_each(predictions, annotations)
    by_answer_type: dict[str, list[float]] = defaultdict(list)
    by_question_type: dict[str, list[float]] = defaultdict(list)
    for question_id, score in scores.items():
        by_answer_type[annotations[question_id].answer_type].append(score)
        by_question_type[annotations[question_id].question_type].append(score)
    return {
        "n": len(scores),
        "overall": percent(list(scores.values())),
        "by_answer_type": percent_by(by_answer_type),
        "by_question_type": percent_by(by_question_type),
    }


def require_same_questions(predictions: Mapping[Id, str], annotations: Mapping[Id, Any]) -> None:
    """Raise ClipfeatError unless both hold the same questions."""
    if predictions.keys() != annotations.keys():
        unmatched = sorted(predictions.keys() ^ annotations.keys(), key=str)
        raise ClipfeatError(
            f"predictions and annotations must hold the same questions; {len(unmatched)} are in "
            f"only one of them, such as {unmatched[:3]}",
            code="E-PREDICTIONS-IDS",
        )


def percent(scores: Sequence[float]) -> float:
    """Return the mean of scores in percent, with two decimals, as papers print it."""
    return round(100 * sum(scores) / len(scores), 2)


def percent_by(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return {name: mean score in percent}, sorted by name, without the group of no name."""
    return {name: percent(groups[name]) for name in sorted(groups) if name}


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
