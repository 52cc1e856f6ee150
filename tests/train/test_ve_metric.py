"""Accuracy, confusion and the file of predictions, against values computed by hand."""

import json
import math
from pathlib import Path

import pytest
import torch
from refused import refuses
from torch import nn
from torch.nn.functional import cross_entropy

from clipfeat.train.data.snli_ve import Pair, VeSplit, read_labels, score_pairs, write_labels
from clipfeat.train.models.layers import AnswerBatch, Outputs
from clipfeat.train.tasks.answering import answering_loss

E, N, C = "entailment", "neutral", "contradiction"


def split_of(*labels: str) -> VeSplit:
    pairs = tuple(Pair(str(n), ("1",), "A.", label) for n, label in enumerate(labels))
    return VeSplit("dev", pairs, 0, (Path("dev.jsonl"),))


def test_a_score_worked_out_by_hand() -> None:
    split = split_of(E, E, E, N, N, C)
    said = dict(zip("012345", (E, E, N, N, C, C), strict=True))
    assert score_pairs(said, split.pairs) == {
        "n": 6,
        "accuracy": 66.67,  # 4 of 6
        "by_class": {E: 66.67, N: 50.0, C: 100.0},
        "confusion": {
            E: {E: 2, N: 1, C: 0},
            N: {E: 0, N: 1, C: 1},
            C: {E: 0, N: 0, C: 1},
        },
    }


def test_no_answer_is_wrong_and_a_class_without_pairs_has_no_score() -> None:
    found = score_pairs({"0": E, "1": ""}, split_of(E, E).pairs)
    assert (found["n"], found["accuracy"], found["by_class"]) == (2, 50.0, {E: 50.0})
    assert sum(found["confusion"][E].values()) == 1


def test_predictions_come_back_as_written(tmp_path: Path) -> None:
    path, split = tmp_path / "p.jsonl", split_of(E, N, C)
    write_labels(path, {"0": E, "2": N}, split)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"pairID": "0", "prediction": E}
    assert read_labels(path, split) == {"0": E, "1": "", "2": N}


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("{", "E-JSON-READ", "line 1"),
        ('{"pairID": 0.5, "prediction": "neutral"}', "E-JSON-TYPE", "pairID"),
        ('{"pairID": "0"}', "E-JSON-KEY", "'prediction'"),
        ('{"pairID": "0", "prediction": "yes"}', "E-VE-LABEL", "got 'yes'"),
        ('{"pairID": "0", "prediction": ""}\n' * 2, "E-DATA-TWICE", "line 2: pairID '0'"),
        ('{"pairID": "9", "prediction": ""}', "E-PREDICTIONS-IDS", "such as '0'; 1 predictions"),
    ],
)
def test_bad_predictions_are_named(tmp_path: Path, content: str, code: str, named: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with refuses(code, str(path), named):
        read_labels(path, split_of(E))
    with refuses("E-JSON-READ", str(tmp_path / "nowhere")):
        read_labels(tmp_path / "nowhere", split_of(E))


class Even(nn.Module):
    """Finds all labels equally likely, in two heads."""

    def forward(self, batch: AnswerBatch) -> Outputs:
        even = torch.zeros(2, 3)
        return Outputs(even, torch.ones(2, 1), (even,))


def test_the_loss_is_the_mean_cross_entropy_of_each_head() -> None:
    batch = AnswerBatch(
        features=torch.zeros(1, 1, 4),
        mask=torch.ones(1, 1, dtype=torch.bool),
        grid_shapes=torch.ones(1, 2, dtype=torch.int64),
        image_of_text=torch.zeros(2, dtype=torch.int64),
        tokens=torch.ones(2, 1, dtype=torch.int64),
        targets=torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]),
    )
    # Of three labels alike it is ln 3.
    assert answering_loss(Even(), batch, cross_entropy).item() == pytest.approx(
        2 * math.log(3), rel=1e-6
    )
