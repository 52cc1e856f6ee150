"""MCAN, deep modular co-attention (Yu et al. 2019), and its layers: words, then cells by words."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..normalize import FeatureNorm
from .layers import (
    AnswerBatch,
    MultiHeadAttention,
    Outputs,
    Reduction,
    SumHead,
    WordStates,
)
from .positions import add_positions, new_position
from .settings import McanSettings


class Residual(nn.Module):
    """The norm of an input plus the output of a layer for it (post-norm, as published)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, items: Float[Tensor, "text item channel"], change: Float[Tensor, "text item channel"]
    ) -> Float[Tensor, "text item channel"]:
        """Return the normalised sum of items and their change."""
        return self.norm(items + self.dropout(change))


def feed_forward(channels: int, dropout: float) -> nn.Sequential:
    """Return the perceptron of each item, four times as wide inside."""
    return nn.Sequential(
        nn.Linear(channels, 4 * channels),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4 * channels, channels),
    )


class SelfAttention(nn.Module):
    """The SA unit of Yu et al. 2019 (MCAN), section 3.1."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.among = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.among_sum = Residual(channels, dropout)
        self.feed = feed_forward(channels, dropout)
        self.feed_sum = Residual(channels, dropout)

    def forward(
        self, words: Float[Tensor, "text token channel"], real: Bool[Tensor, "text token"]
    ) -> Float[Tensor, "text token channel"]:
        """Return the words after attention to the real ones; padding words are meaningless."""
        words = self.among_sum(words, self.among(words, words, real))
        return self.feed_sum(words, self.feed(words))


class GuidedAttention(nn.Module):
    """The SGA unit of Yu et al. 2019 (MCAN), section 3.1: cells among themselves, then to words."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.among = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.among_sum = Residual(channels, dropout)
        self.guided = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.guided_sum = Residual(channels, dropout)
        self.feed = feed_forward(channels, dropout)
        self.feed_sum = Residual(channels, dropout)

    def forward(
        self,
        cells: Float[Tensor, "text cell channel"],
        seen: Bool[Tensor, "text cell"],
        words: Float[Tensor, "text token channel"],
        real: Bool[Tensor, "text token"],
    ) -> Float[Tensor, "text cell channel"]:
        """Return the cells after attention to the `seen` cells and to the `real` words."""
        cells = self.among_sum(cells, self.among(cells, cells, seen))
        cells = self.guided_sum(cells, self.guided(cells, words, real))
        return self.feed_sum(cells, self.feed(cells))


class Mcan(nn.Module):
    """The encoder-decoder cascade of Yu et al. 2019 (MCAN), section 3, in OpenVQA's sizes.

    Differences from OpenVQA's code: features can be normalised first, and a LayerNorm follows their
    projection; biases that softmax cancels are left out.
    """

    def __init__(
        self, settings: McanSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, heads, dropout = settings.hidden, settings.heads, settings.dropout
        self.norm = norm
        self.states = WordStates(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.appearance = nn.Sequential(nn.Linear(norm.channels, hidden), nn.LayerNorm(hidden))
        self.position = new_position(norm, hidden) if settings.positions else None
        self.encoder = nn.ModuleList(
            SelfAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.decoder = nn.ModuleList(
            GuidedAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        inner = settings.reduction
        self.reduce_words = Reduction(hidden, inner=inner, glimpses=1, dropout=dropout)
        self.reduce_cells = Reduction(hidden, inner=inner, glimpses=1, dropout=dropout)
        self.head = SumHead(hidden, vectors=2, joint=settings.joint, answers=answers)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and the weights of the last reduction over cells.

        The contents of padding cells change nothing.
        """
        words, real = self.states(batch.tokens)
        for layer in self.encoder:
            words = layer(words, real)

        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        cells = self.appearance(self.norm(batch.features, mask))  # image cell hidden
        cells = add_positions(cells, self.position, batch.grid_shapes, boxes)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, batch.image_of_text)  # text cell hidden
        seen = mask.index_select(0, batch.image_of_text)
        for layer in self.decoder:
            cells = layer(cells, seen, words, real)

        text, _ = self.reduce_words(words, real)  # text 1 hidden
        image, weights = self.reduce_cells(cells, seen)
        return Outputs(self.head(text[:, 0], image[:, 0]), weights[:, 0])
