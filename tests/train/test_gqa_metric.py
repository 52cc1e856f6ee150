"""GQA's accuracy and consistency, worked by hand from the rules of its eval.py."""

import pytest
from refused import refuses

from clipfeat.train.metrics.gqa import GqaAnnotation, score_each, score_split

BALANCED, OTHER = True, False
ANNOTATIONS = {
    "1": GqaAnnotation("yes", BALANCED, "verify", "attr", ("1", "2", "3")),
    "2": GqaAnnotation("red", BALANCED, "query", "attr", ("1",)),
    "3": GqaAnnotation("no", OTHER, "logical", "obj", ()),
    "4": GqaAnnotation("left", BALANCED, "choose", "rel", ("4",)),
}


@pytest.mark.parametrize(
    ("answers", "consistency"),
    [
        # 1 is right and entails 2 (right) and 3 (wrong); 2 is right and entails 1.
        ({"1": "yes", "2": "red", "3": "yes", "4": "right"}, 75.0),
        ({"1": "yes", "2": "blue", "3": "no", "4": "right"}, 50.0),
        ({"1": "no", "2": "red", "3": "no", "4": "left"}, 0.0),
        # 4 entails itself alone, which is nothing to be consistent with.
        ({"1": "no", "2": "blue", "3": "no", "4": "left"}, None),
    ],
)
def test_consistency(answers: dict[str, str], consistency: float | None) -> None:
    assert score_split(answers, ANNOTATIONS)["consistency"] == consistency


def test_accuracy_is_over_balanced_questions_by_type() -> None:
    answers = {"1": "yes", "2": "Red", "3": "no", "4": "left"}  # to the letter
    assert score_each(answers, ANNOTATIONS) == {"1": 1.0, "2": 0.0, "4": 1.0}
    assert score_split(answers, ANNOTATIONS) == {
        "n": 3,
        "overall": 66.67,
        "by_answer_type": {"binary": 100.0, "open": 0.0},
        "by_question_type": {"choose": 100.0, "query": 0.0, "verify": 100.0},
        "by_semantic_type": {"attr": 50.0, "rel": 100.0},
        "consistency": 50.0,
    }


def test_consistency_needs_the_entailed_questions() -> None:
    annotations = {key: value for key, value in ANNOTATIONS.items() if key != "3"}
    assert score_split(dict.fromkeys(annotations, "yes"), annotations)["consistency"] is None


def test_what_cannot_be_scored_is_refused() -> None:
    with refuses("E-PREDICTIONS-IDS", "3 ", "['2',"):
        score_each({"1": "yes"}, ANNOTATIONS)
    with refuses("E-GQA-BALANCED", "1 questions"):
        score_each({"3": "no"}, {"3": ANNOTATIONS["3"]})
