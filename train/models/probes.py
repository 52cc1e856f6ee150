"""Probes: the smallest readers of frozen features, as baselines for the other models."""

import torch
from torch import nn

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from .layers import (
    AnswerBatch,
    MultiHeadAttention,
    Outputs,
    WordEmbedding,
    masked_mean,
)
from .mcan import feed_forward
from .positions import add_positions, new_position
from .settings import AttentiveProbeSettings, LinearProbeSettings
from .updn import QuestionEncoder

QUERY_STD = 0.02  # of a new probe's queries, as in V-JEPA's code


class AttentiveProbe(nn.Module):
    """Learned queries that attend to the cells once, then a linear head.

    The block is that of V-JEPA's attentive probe (Bardes et al. 2024, section 4.3): cross-attention,
    then a perceptron, each added to the queries. The frozen-feature evaluation of CoCa (Yu et al.
    2022, sections 3.2 and 3.3) has the attention alone. Differences: the projected vector of the text
    is added to every query; there are several queries, and the head reads their mean; cells
    are projected to `hidden` channels first, and can carry their position; the perceptron has ReLU.
    """

    def __init__(
        self, settings: AttentiveProbeSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        self.norm = norm
        self.text = QuestionEncoder(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.condition = nn.Linear(hidden, hidden)
        self.queries = nn.Embedding(
            settings.queries, hidden
        )  # weight decay leaves embeddings alone
        nn.init.normal_(self.queries.weight, std=QUERY_STD)
        self.appearance = nn.Sequential(nn.Linear(norm.channels, hidden), nn.LayerNorm(hidden))
        self.position = new_position(norm, hidden) if settings.positions else None
        self.attention = MultiHeadAttention(hidden, heads=settings.heads, dropout=dropout)
        self.feed = nn.Sequential(nn.LayerNorm(hidden), feed_forward(hidden, dropout))
        self.classifier = nn.Linear(hidden, answers)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and its attention over cells: the mean of queries and heads.

        The contents of padding cells change nothing.
        """
        condition = self.condition(self.text(batch.tokens))
        queries = self.queries.weight + condition[:, None]  # text query hidden

        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        cells = self.appearance(self.norm(batch.features, mask))  # image cell hidden
        cells = add_positions(cells, self.position, batch.grid_shapes, boxes)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        keys, values = (
            part.index_select(0, batch.image_of_text) for part in self.attention.project(cells)
        )
        real = mask.index_select(0, batch.image_of_text)
        weights = self.attention.weights(queries, keys, real).mean(dim=1)  # text cell

        states = queries + self.attention.gather(queries, keys, values, real[:, None, None])
        states = states + self.feed(states)
        return Outputs(self.classifier(states.mean(dim=1)), weights)


class LinearProbe(nn.Module):
    """One linear layer over the mean cell and the mean word, side by side.

    It is the baseline of Zhou et al. 2015 (iBOWIMG), with the mean of a grid as the image's vector;
    Deuser et al. 2022 use it on CLIP's two vectors. Its logits are the sum of a part that depends on
    the image and a part that depends on the text. It shows what the mean cell tells about answers
    whatever the question is, and cannot tell whether a text is true of an image.
    """

    def __init__(
        self, settings: LinearProbeSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        self.norm = norm
        self.words = WordEmbedding(tokens, settings.embedding)
        self.classifier = nn.Linear(norm.channels + settings.embedding, answers)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits, and equal weights for the real cells of its image.

        The contents of padding cells change nothing.
        """
        mask, _ = self.norm.seen(batch.mask, batch.boxes)
        image = masked_mean(self.norm(batch.features, mask), mask)  # image dim
        text = masked_mean(self.words(batch.tokens), batch.tokens != PADDING)  # text embedding
        logits = self.classifier(torch.cat((image.index_select(0, batch.image_of_text), text), 1))
        weights = mask / mask.sum(dim=1, keepdim=True)
        return Outputs(logits, weights.index_select(0, batch.image_of_text))
