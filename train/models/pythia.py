"""Pythia v0.1: a text attends to its own words, then once to the cells of a grid."""

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..normalize import FeatureNorm
from .layers import (
    AnswerBatch,
    Outputs,
    Reduction,
    WordStates,
    masked_softmax,
)
from .positions import add_positions, new_position
from .settings import PythiaSettings

GLIMPSES = 2  # of the question's words


def weight_normed(inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    """Return a linear layer whose weight matrix is a direction times one length."""
    return weight_norm(nn.Linear(inputs, outputs, bias=bias), dim=-1)


class ProductAttention(nn.Module):
    """Weights over cells, from products of each cell with the question."""

    def __init__(self, *, dim: int, question: int, joint: int, dropout: float) -> None:
        super().__init__()
        self.cell = nn.Sequential(weight_normed(dim, joint), nn.ReLU())
        self.question = nn.Sequential(weight_normed(question, joint), nn.ReLU())
        self.score = weight_normed(joint, 1, bias=False)  # softmax cancels a bias
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        image_of_text: Int[Tensor, " text"],
        question: Float[Tensor, "text channel"],
    ) -> Float32[Tensor, "text cell"]:
        """Return each text's weights over the real cells of its image, which sum to 1.

        A score is linear in the product, so its weights go into the question's factor, and no
        product is stored: with 512 texts, 558 cells and 5000 channels it would take 5.7 GB, and the
        cells of each text as much.
        """
        query = self.dropout(self.question(question)) * self.score.weight  # text joint
        cells = self.cell(features).index_select(0, image_of_text)  # text cell joint
        scores = torch.einsum("tcj,tj->tc", cells, query.to(cells.dtype))
        return masked_softmax(scores, mask.index_select(0, image_of_text))


class Pythia(nn.Module):
    """Pythia v0.1 (Jiang et al. 2018, section 2) in the sizes of mmf's `pythia`.

    Differences from mmf, in which CLIP-ViL trained it: features can be normalised first; padding
    words get no weight in the question's attention, where mmf gives them some; biases that softmax
    cancels are left out. As in CLIP-ViL's configuration, no layer under the features is fine-tuned.
    mmf has no dropout here. Where there is some, the dropout before the attention's score is on the
    question's factor of the products, so that it is the same for all cells. With `positions` a
    cell's position is added to its features.
    """

    def __init__(
        self, settings: PythiaSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, joint, dropout = settings.hidden, settings.joint, settings.dropout
        dim, question = norm.channels, GLIMPSES * hidden
        self.norm = norm
        self.states = WordStates(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.reduce_words = Reduction(hidden, inner=hidden // 2, glimpses=GLIMPSES, dropout=0.0)
        self.position = new_position(norm, dim) if settings.positions else None
        self.attention = ProductAttention(dim=dim, question=question, joint=joint, dropout=dropout)
        self.question_for_fusion = nn.Sequential(weight_normed(question, joint), nn.ReLU())
        self.image_for_fusion = nn.Sequential(weight_normed(dim, joint), nn.ReLU())
        self.text_head = _head(joint, settings.text_head, answers)
        self.image_head = _head(joint, settings.image_head, answers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and its attention weights, which sum to 1 over cells.

        The contents of padding cells change nothing.
        """
        states, real = self.states(batch.tokens)
        glimpses, _ = self.reduce_words(self.dropout(states), real)
        question = glimpses.flatten(1)  # text 2*hidden

        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        cells = self.norm(batch.features, mask)  # image cell dim
        cells = add_positions(cells, self.position, batch.grid_shapes, boxes)
        weights = self.attention(cells, mask, batch.image_of_text, question)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        attended = torch.einsum("tc,tcd->td", weights, cells.index_select(0, batch.image_of_text))

        fused = self.question_for_fusion(question) * self.image_for_fusion(attended)
        fused = self.dropout(fused)  # text joint
        return Outputs(self.text_head(fused) + self.image_head(fused), weights)


def _head(joint: int, inner: int, answers: int) -> nn.Sequential:
    return nn.Sequential(weight_normed(joint, inner), nn.ReLU(), nn.Linear(inner, answers))
