"""The encoder with a head for each objective, and their losses.

CLIP-ViL's code has BERT's pooler before the heads for matching and for answers, and two logits for
matching, of which only the difference counts. Its masked-word head is the same.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear,
    smooth_l1_loss,
)

from ...models.layers import EPSILON, AnswerHead
from ...models.single_stream import SingleStreamEncoder
from ...normalize import FeatureNorm
from ..settings import PretrainSettings
from .examples import NO_ANSWER, PretrainBatch


class WordHead(nn.Module):
    """Logits of word pieces; the last layer is the embedding, as in BERT."""

    def __init__(self, channels: int, pieces: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.LayerNorm(channels, eps=EPSILON)
        )
        self.bias = nn.Parameter(torch.zeros(pieces))

    @torch.no_grad()
    def start_from(self, bert: nn.Module) -> None:
        """Take over the head of a BertForMaskedLM."""
        head = bert.get_submodule("cls.predictions")
        linear, norm = self.transform[0], self.transform[2]
        linear.load_state_dict(head.get_submodule("transform.dense").state_dict())
        norm.load_state_dict(head.get_submodule("transform.LayerNorm").state_dict())
        self.bias.copy_(head.get_parameter("bias"))

    def forward(
        self,
        states: Float[Tensor, "masked channel"],
        embedding: Float[Tensor, "piece channel"],
    ) -> Float[Tensor, "masked piece"]:
        """Return the logits of all pieces, given their vectors."""
        return linear(self.transform(states), embedding, self.bias)


class CellHead(nn.Module):
    """What the features of a hidden cell are, from its state."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.unknown = nn.Parameter(torch.zeros(dim))  # stands for the features of a hidden cell
        self.project = nn.Linear(channels, dim)

    def hide(
        self, features: Float[Tensor, "image cell dim"], hidden: Bool[Tensor, "image cell"]
    ) -> Float[Tensor, "image cell dim"]:
        """Return the features without those of hidden cells."""
        return torch.where(hidden[:, :, None], self.unknown, features)

    def forward(self, states: Float[Tensor, "text cell channel"]) -> Float[Tensor, "text cell dim"]:
        """Return the features of cells."""
        return self.project(states)


class PretrainOutputs(NamedTuple):
    """The outputs of the heads; None for an objective without weight."""

    words: Float[Tensor, "masked piece"]
    matching: Float[Tensor, " text"]  # logit of the text being about the image
    answers: Float[Tensor, "text answer"] | None
    cells: Float[Tensor, "text cell dim"] | None  # normalised features
    target: Float[Tensor, "image cell dim"] | None  # what they are, also for a blind model


class Pretrainer(nn.Module):
    """The single-stream encoder with the heads of the objectives that count."""

    def __init__(
        self, settings: PretrainSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        channels, dim = settings.model.hidden, norm.channels
        self.norm = norm
        self.encoder = SingleStreamEncoder(
            settings.model, dim=dim, tokens=tokens, regions=norm.regions
        )
        self.word = WordHead(channels, tokens)
        self.matching = nn.Linear(channels, 1)
        self.answer = AnswerHead(channels, answers) if settings.objectives.answers else None
        self.cell = CellHead(channels, dim) if settings.objectives.cells else None

    def forward(self, batch: PretrainBatch) -> PretrainOutputs:
        """Return the outputs of the heads for a batch."""
        mask, places = self.norm.seen(batch.mask, batch.places)
        features, target = self.norm(batch.features, mask), None
        if self.cell is not None:
            blind = self.norm.blind
            target = self.norm.normalised(batch.features, batch.mask) if blind else features
            features = self.cell.hide(features, batch.hidden)
        states, _ = self.encoder(features, mask, places, batch.image_of_text, batch.tokens)
        width = batch.tokens.shape[1]
        pieces = states[:, :width].flatten(0, 1).index_select(0, batch.masked)
        return PretrainOutputs(
            words=self.word(pieces, self.encoder.bert.embeddings.word_embeddings.weight),
            matching=self.matching(states[:, 0]).squeeze(-1),
            answers=None if self.answer is None else self.answer(states[:, 0]),
            cells=None if self.cell is None else self.cell(states[:, width:]),
            target=target,
        )


class Tally(NamedTuple):
    """The loss and the accuracy of an objective on a batch, as sums that add up over batches."""

    loss: Float[Tensor, ""]
    predicted: Int[Tensor, ""]  # pieces, texts or cells that the loss is a sum over
    right: Int[Tensor, ""]  # predictions that are right, of those that `judged` counts
    judged: Int[Tensor, ""]


def tallies(outputs: PretrainOutputs, batch: PretrainBatch) -> dict[str, Tally]:
    """Return the tally of each objective.

    Answers and cells are predicted, and pieces are judged, where the text is about the image.
    """
    matched = batch.matched > 0
    piece_matched = matched[batch.masked // batch.tokens.shape[1]]
    tally_of = {
        "words": Tally(
            cross_entropy(outputs.words, batch.pieces, reduction="sum"),
            piece_matched.new_ones(()).long() * len(batch.pieces),
            ((outputs.words.argmax(dim=1) == batch.pieces) & piece_matched).sum(),
            piece_matched.sum(),
        ),
        "matching": Tally(
            binary_cross_entropy_with_logits(outputs.matching, batch.matched, reduction="sum"),
            torch.ones_like(matched).sum(),
            ((outputs.matching > 0) == matched).sum(),
            torch.ones_like(matched).sum(),
        ),
    }
    if outputs.answers is not None:
        predicted = batch.answers != NO_ANSWER
        loss = cross_entropy(
            outputs.answers, batch.answers, ignore_index=NO_ANSWER, reduction="sum"
        )
        right = (outputs.answers.argmax(dim=1) == batch.answers).sum()
        tally_of["answers"] = Tally(loss, predicted.sum(), right, predicted.sum())
    if outputs.cells is not None and outputs.target is not None:
        target = outputs.target.index_select(0, batch.image_of_text)
        loss = smooth_l1_loss(outputs.cells, target, reduction="none").mean(dim=-1)
        predicted = batch.hidden.index_select(0, batch.image_of_text) & matched[:, None]
        nothing = predicted.new_zeros(()).long()
        tally_of["cells"] = Tally((loss * predicted).sum(), predicted.sum(), nothing, nothing)
    return tally_of


def objectives_loss(model: nn.Module, batch: PretrainBatch, settings: PretrainSettings) -> Tensor:
    """Return the sum of the objectives' mean losses, each with its weight."""
    weighted = [
        getattr(settings.objectives, name) * tally.loss / tally.predicted.clamp(min=1)
        for name, tally in tallies(model(batch), batch).items()
    ]
    return torch.stack(weighted).sum()
