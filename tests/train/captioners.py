"""Tiny captioners of random weights, ragged grids for them, and one that obeys a table."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipfeat.train.data.caption_vocabulary import SPECIAL_TOKENS
from clipfeat.train.models.captioner import Captioner
from clipfeat.train.models.settings import (
    CaptionerSettings,
    TransformerCaptionerSettings,
    UpDnCaptionerSettings,
)
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.records import Records
from clipfeat.train.tasks.captioning.model import build_captioner

DIM, WORDS = 6, 3  # of features; besides the tokens that stand for no word
TINY: dict[str, CaptionerSettings] = {
    "transformer": TransformerCaptionerSettings(
        hidden=16, layers=2, heads=2, dropout=0.0, cell_dropout=0.0
    ),
    "updn": UpDnCaptionerSettings(
        embedding=8, hidden=16, attention=8, dropout=0.0, cell_dropout=0.0
    ),
}


def captioner(name: str, *, words: int = WORDS, positions: bool = True) -> Captioner:
    torch.manual_seed(0)
    settings = dataclasses.replace(TINY[name], positions=positions)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    model = build_captioner(settings, norm, words=SPECIAL_TOKENS + words).eval()
    for parameter in model.parameters():  # biases too, which would hide leaks at zero
        nn.init.normal_(parameter, std=0.4)
    return model


def grids() -> Records:
    """Return two images, of 2x3 and of 2x2 cells."""
    random = torch.Generator().manual_seed(0)
    return Records(
        features=torch.randn(2, 6, DIM, generator=random).half(),
        mask=torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
        grid_shapes=torch.tensor([[2, 3], [2, 2]]),
    )


def alone(batch: Records, image: int) -> Records:
    """Return one image of a batch, without padding."""
    cells = int(batch.mask[image].sum())
    one = slice(image, image + 1)
    return Records(batch.features[one, :cells], batch.mask[one, :cells], batch.grid_shapes[one])


class TableState(NamedTuple):
    nothing: Tensor


class Table(Captioner):
    """A captioner of whose words each depends on the last one only; the same for each image.

    `table` is {last token: {token: probability}}; all other probabilities are zero.
    """

    def __init__(self, table: Mapping[int, Mapping[int, float]], *, tokens: int) -> None:
        super().__init__()
        self._logits = torch.full((tokens, tokens), -1e9)
        for last, chances in table.items():
            for token, chance in chances.items():
                self._logits[last, token] = math.log(chance)

    def encode(self, records: Records) -> TableState:
        return TableState(records.features.new_zeros(len(records.features), 1))

    def logits(self, memory: TableState, tokens: Tensor) -> Tensor:
        return self._logits[tokens]

    def attention(self, memory: TableState, tokens: Tensor) -> Tensor:
        return torch.ones(*tokens.shape, 1)

    def start(self, memory: TableState) -> TableState:
        return memory

    def step(
        self, memory: TableState, state: TableState, last: Tensor
    ) -> tuple[Tensor, TableState]:
        return self._logits[last], state


def table_memory(model: Captioner, images: int = 1) -> TableState:
    return model.encode(
        Records(
            torch.zeros(images, 1, 1),
            torch.ones(images, 1, dtype=torch.bool),
            torch.ones(images, 2, dtype=torch.int64),
        )
    )
