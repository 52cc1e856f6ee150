"""The losses and accuracies of pre-training, worked by hand on outputs that are given."""

from math import log
from typing import Any

import pytest
import torch
from refused import refuses
from torch import Tensor, nn

from clipfeat.base.errors import UsageError
from clipfeat.train.tasks.pretraining.examples import PretrainBatch
from clipfeat.train.tasks.pretraining.model import PretrainOutputs, objectives_loss, tallies
from clipfeat.train.tasks.settings import ObjectiveSettings, PretrainSettings

LN3 = log(3)
# Three texts of two pieces; the first two are about image 1, and the second one does not match.
BATCH = PretrainBatch(
    features=torch.zeros(2, 2, 2),
    mask=torch.ones(2, 2, dtype=torch.bool),
    places=torch.zeros(2, 2, 2, dtype=torch.int64),
    hidden=torch.tensor([[True, False], [True, True]]),
    image_of_text=torch.tensor([1, 1, 0]),
    tokens=torch.tensor([[5, 6], [5, 0], [7, 8]]),
    masked=torch.tensor([1, 2, 4]),
    pieces=torch.tensor([0, 1, 2]),
    matched=torch.tensor([1.0, 0.0, 1.0]),
    answers=torch.tensor([1, -1, 0]),
)
OUTPUTS = PretrainOutputs(
    words=torch.tensor([[LN3, 0, 0], [0, LN3, 0], [LN3, 0, 0]]),  # 3/5, 3/5 and 1/5 for what was
    matching=torch.tensor([LN3, LN3, -LN3]),  # 3/4 sure
    answers=torch.tensor([[0, LN3], [9.0, 0], [0, LN3]]),  # 3/4, nothing asked, 1/4
    cells=torch.tensor([
        [[0.5, 0.0], [1.0, 3.0]],
        [[9.0, 9.0], [9.0, 9.0]],
        [[-2.0, 0.0], [9.0, 9.0]],
    ]),
    target=torch.tensor([[[0.0, 0.0], [7.0, 7.0]], [[0.0, 0.0], [1.0, 1.0]]]),
)  # fmt: skip
WORDS, MATCHING = 2 * log(5 / 3) + log(5), log(4 / 3) + 2 * log(4)
ANSWERS = log(4 / 3) + log(4)
# Half the square up to 1, then the difference less a half; the mean of two channels.
CELLS = 0.125 / 2 + 1.5 / 2 + 1.5 / 2


def numbers(outputs: PretrainOutputs, batch: PretrainBatch) -> dict[str, list[float]]:
    return {name: [n.item() for n in tally] for name, tally in tallies(outputs, batch).items()}


def test_losses_asked_right_and_judged() -> None:
    """Pieces of a text about another image are learned from, and not judged."""
    assert numbers(OUTPUTS, BATCH) == {
        "words": [pytest.approx(WORDS), 3, 1, 2],
        "matching": [pytest.approx(MATCHING), 3, 1, 3],
        "answers": [pytest.approx(ANSWERS), 2, 1, 2],
        "cells": [pytest.approx(CELLS), 3, 0, 0],
    }


def nothing_asked() -> tuple[PretrainOutputs, PretrainBatch]:
    outputs = OUTPUTS._replace(words=torch.zeros(0, 3))
    batch = BATCH._replace(
        hidden=torch.zeros(2, 2, dtype=torch.bool),
        masked=torch.zeros(0, dtype=torch.int64),
        pieces=torch.zeros(0, dtype=torch.int64),
        answers=torch.full((3,), -1),
    )
    return outputs, batch


def test_where_nothing_is_asked_the_sums_are_zero() -> None:
    found = numbers(*nothing_asked())
    assert found["words"] == found["answers"] == found["cells"] == [0, 0, 0, 0]
    assert found["matching"][1] == 3


def test_objectives_without_a_head_are_not_there() -> None:
    assert tallies(OUTPUTS._replace(answers=None, cells=None), BATCH).keys() == {
        "words",
        "matching",
    }


class Saying(nn.Module):
    """A model that says what it is given."""

    def __init__(self, outputs: PretrainOutputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, batch: PretrainBatch) -> PretrainOutputs:
        return self.outputs


def loss(outputs: PretrainOutputs, batch: PretrainBatch, **weights: Any) -> Tensor:
    settings = PretrainSettings(objectives=ObjectiveSettings(**weights))
    return objectives_loss(Saying(outputs), batch, settings)


def test_the_loss_is_the_weighted_sum_of_means_over_what_is_asked() -> None:
    found = loss(OUTPUTS, BATCH, words=1.0, matching=2.0, answers=0.5, cells=4.0).item()
    expected = WORDS / 3 + 2 * MATCHING / 3 + 0.5 * ANSWERS / 2 + 4 * CELLS / 3
    assert found == pytest.approx(expected)
    assert loss(OUTPUTS, BATCH, words=0.0, matching=1.0).item() == pytest.approx(MATCHING / 3)


def test_a_batch_that_asks_nothing_costs_nothing_and_has_a_gradient() -> None:
    outputs, batch = nothing_asked()
    assert outputs.answers is not None
    logits = outputs.answers.clone().requires_grad_()
    found = loss(
        outputs._replace(answers=logits), batch, words=1.0, matching=0.0, answers=1.0, cells=1.0
    )
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("objectives", "code", "names"),
    [
        ({"words": 0.0, "matching": 0.0}, "E-SETTINGS-OBJECTIVES", ("words", "answers")),
        ({"answers": -1.0}, "E-SETTINGS-RANGE", ("answers", "-1.0")),
        ({"mask_words": 1.0}, "E-SETTINGS-RANGE", ("mask_words", "1.0")),
        ({"mismatch": -0.1}, "E-SETTINGS-RANGE", ("mismatch", "-0.1")),
    ],
)
def test_objectives_that_make_no_sense_are_refused(
    objectives: dict[str, Any], code: str, names: tuple[str, ...]
) -> None:
    with refuses(code, *names, kind=UsageError):
        ObjectiveSettings(**objectives)
