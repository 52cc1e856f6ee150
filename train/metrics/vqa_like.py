"""The answers of data sets that are made like VQA, where their own scripts score in another way."""

from collections import Counter
from typing import NamedTuple

from .vqa import Annotation, agreement, normalize_answer

DIFFICULT = "difficult"  # the answer type of a question of A-OKVQA that its score leaves out


class TextVqaAnnotation(Annotation):
    """Answers of TextVQA: they are normalised even where all annotators agree."""

    def accuracy(self, answer: str) -> float:
        """Return the accuracy as mmf's TextVQAAccuracyEvaluator computes it."""
        return agreement(_evalai_answer(answer), [_evalai_answer(text) for text in self.answers])


def _evalai_answer(text: str) -> str:
    """Return an answer as EvalAI's answer processor does, which prepares it for VQA's rules."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_answer(text)


class VizWizAnnotation(Annotation):
    """Answers of VizWiz, which are published in their normal form."""

    def accuracy(self, answer: str) -> float:
        """Return the accuracy as VizWiz's script computes it: only the prediction is normalised."""
        return agreement(normalize_answer(answer), self.answers)


class DirectAnnotation(Annotation):
    """Direct answers of A-OKVQA, which are compared as they are."""

    def soft(self) -> dict[str, float]:
        """Return {answer: accuracy}."""
        return {answer: min(1.0, count / 3) for answer, count in Counter(self.answers).items()}

    def common(self) -> str:
        """Return the most common answer."""
        return self.multiple_choice_answer

    def accuracy(self, answer: str) -> float:
        """Return the accuracy of A-OKVQA's `eval_predictions.py`: three equal answers are enough."""
        return min(1.0, self.answers.count(answer) / 3)

    @property
    def is_scored(self) -> bool:
        """Whether the question counts: those whose direct answers are difficult do not."""
        return self.answer_type != DIFFICULT


class ScoredAnswers(NamedTuple):
    """Answers with their scores, as LXMERT's files have them in place of what annotators said."""

    scores: dict[str, float]  # {answer: score, 0 to 1}; empty where no answer is a class
    answer_type: str
    question_type: str
    is_scored: bool = True

    def soft(self) -> dict[str, float]:
        """Return {answer: score}."""
        return self.scores

    def common(self) -> str | None:
        """Return the first answer of highest score, None where no answer scores."""
        return max(self.scores, key=self.scores.__getitem__, default=None)

    def accuracy(self, answer: str) -> float:
        """Return the score of an answer, 0 where it has none."""
        return self.scores.get(answer, 0.0)
