"""The single-stream model of CLIP-ViL_p (Shen et al. 2021): one BERT encoder over text and cells.

It differs from the paper's code in these points. The backbone is frozen. Features are normalised.
Cells of a black border are masked; the paper reads them like all others. Rows and columns, or the
boxes of regions, are added after the projection (`CellEmbedding`). Heads read the state of the first
piece itself, without BERT's pooler, which in the paper is a linear layer without its tanh.
docs/training.md has all departures, and what to expect of them.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int, Num
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from ..records import BOX
from .layers import EPSILON, AnswerBatch, AnswerHead, Outputs
from .settings import MAX_TOKENS, SingleStreamSettings

# Weights of BERT-base start with this std; that of narrower layers is larger, so that the variance
# of their outputs is the same.
BERT_STD, BERT_HIDDEN = 0.02, 768
POSITION_STD = 0.5  # initial std of positions: that of projected features, so that both count


class CellEmbedding(nn.Module, ABC):
    """Cells as inputs of the encoder: projected features plus a vector of the cell's place.

    CLIP-ViL adds places to the features before the projection, which is linear: the sum after it
    can express the same with fewer weights. There they start with a std of 0.02.
    """

    def __init__(self, dim: int, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(dim, channels)
        self.layer_norm = nn.LayerNorm(channels, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def places(
        self, places: Num[Tensor, "image cell place"]
    ) -> Float[Tensor, "image cell channel"]:
        """Return the vectors of places."""

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        places: Num[Tensor, "image cell place"],
    ) -> Float[Tensor, "image cell channel"]:
        """Return the cells of normalised features."""
        return self.dropout(self.layer_norm(self.project(features) + self.places(places)))


class GridEmbedding(CellEmbedding):
    """Cells of grids: the place of one is its row and its column, with a vector for each."""

    def __init__(self, dim: int, channels: int, *, max_grid_side: int, dropout: float) -> None:
        super().__init__(dim, channels, dropout=dropout)
        self.rows, self.cols = (nn.Embedding(max_grid_side, channels) for _ in range(2))
        for embedding in (self.rows, self.cols):
            nn.init.normal_(embedding.weight, std=POSITION_STD)

    def places(self, places: Int[Tensor, "image cell 2"]) -> Float[Tensor, "image cell channel"]:
        """Return the sums of the vectors of row and column."""
        last = self.rows.num_embeddings - 1
        row, col = places.clamp(max=last).unbind(-1)  # larger ones are of masked padding
        return self.rows(row) + self.cols(col)


class RegionEmbedding(CellEmbedding):
    """Regions: the place of one is its box, projected as in ViLBERT (`BoxPosition`)."""

    def __init__(self, dim: int, channels: int, *, dropout: float) -> None:
        super().__init__(dim, channels, dropout=dropout)
        self.box = nn.Linear(BOX, channels)

    def places(
        self, places: Float32[Tensor, "image cell 5"]
    ) -> Float[Tensor, "image cell channel"]:
        """Return the vectors of boxes."""
        return self.box(places)


def make_bert(settings: SingleStreamSettings, *, tokens: int) -> BertModel:
    """Return BERT's embeddings of pieces and its layers, with random weights."""
    config = BertConfig(
        vocab_size=tokens,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        initializer_range=BERT_STD * math.sqrt(BERT_HIDDEN / settings.hidden),
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=PADDING,
    )
    return BertModel(config, add_pooling_layer=False)


class SingleStreamEncoder(nn.Module):
    """The encoder of CLIP-ViL_p: pieces and cells in one sequence, read by BERT's layers."""

    def __init__(
        self, settings: SingleStreamSettings, *, dim: int, tokens: int, regions: bool = False
    ) -> None:
        super().__init__()
        self.bert = make_bert(settings, tokens=tokens)
        hidden, side, dropout = settings.hidden, settings.max_grid_side, settings.dropout
        self.grid = (
            RegionEmbedding(dim, hidden, dropout=dropout)
            if regions
            else GridEmbedding(dim, hidden, max_grid_side=side, dropout=dropout)
        )

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        places: Num[Tensor, "image cell place"],
        image_of_text: Int[Tensor, " text"],
        tokens: Int[Tensor, "text token"],
    ) -> tuple[Float[Tensor, "text item channel"], Float[Tensor, "text cell"]]:
        """Return the states of a text's pieces, then of its image's cells; and the attention.

        `features` are normalised; a place is row and column, or the box of a region. The attention
        is that of the last layer from the first piece to the cells, the mean of its heads, which
        sums to 1. The contents of padding pieces and cells change nothing else.
        """
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = self.grid(features, places).index_select(0, image_of_text)
        seen = mask.index_select(0, image_of_text)
        states = torch.cat((self.bert.embeddings(tokens).to(cells.dtype), cells), dim=1)
        real = torch.cat((tokens != PADDING, seen), dim=1)[:, None, None]  # text head query item
        *lower, last = self.bert.encoder.layer
        for layer in lower:
            states = layer(states, real)
        return last(states, real), self._attention(states.detach(), seen)

    @torch.no_grad()
    def _attention(
        self, states: Float[Tensor, "text item channel"], seen: Bool[Tensor, "text cell"]
    ) -> Float[Tensor, "text cell"]:
        """Return the attention of the last layer, given its inputs, from the first piece to cells."""
        attention: Any = self.bert.encoder.layer[-1].get_submodule("attention.self")
        split = (attention.num_attention_heads, attention.attention_head_size)
        query = attention.query(states[:, 0]).unflatten(-1, split)  # text head part
        key = attention.key(states[:, -seen.shape[1] :]).unflatten(-1, split)  # text cell head part
        scores = torch.einsum("thp,tchp->thc", query, key).float() * split[1] ** -0.5
        return scores.masked_fill(~seen[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)


class SingleStream(nn.Module):
    """The encoder with a head for answers, as it is fine-tuned."""

    def __init__(
        self, settings: SingleStreamSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        self.norm = norm
        self.encoder = SingleStreamEncoder(
            settings, dim=norm.channels, tokens=tokens, regions=norm.regions
        )
        self.answer = AnswerHead(settings.hidden, answers)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and its attention over the cells."""
        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        features = self.norm(batch.features, mask)
        places = boxes
        if not self.norm.regions:
            places = grid_positions(batch.grid_shapes, batch.features.shape[1])
        states, attention = self.encoder(features, mask, places, batch.image_of_text, batch.tokens)
        return Outputs(self.answer(states[:, 0]), attention)


def grid_positions(grid_shapes: Int[Tensor, "image 2"], cells: int) -> Int[Tensor, "image cell 2"]:
    """Return row and column of the first `cells` cells, row by row; meaningless past a grid."""
    cols = grid_shapes[:, 1:]
    cell = torch.arange(cells, device=grid_shapes.device)
    return torch.stack((cell // cols, cell % cols), dim=-1)
