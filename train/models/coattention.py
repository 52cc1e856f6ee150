"""The layers of deep modular co-attention: words among themselves, and cells guided by words."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import MultiHeadAttention


class Residual(nn.Module):
    """The norm of an input and what a layer made of it (post-norm, as published)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, items: Float[Tensor, "text item channel"], change: Float[Tensor, "text item channel"]
    ) -> Float[Tensor, "text item channel"]:
        """Return items and their change, added and normed."""
        return self.norm(items + self.dropout(change))


def feed_forward(channels: int, dropout: float) -> nn.Sequential:
    """Return the perceptron at each item, four times as wide inside."""
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
        """Return the words, each having read the real ones; padding words hold no meaning."""
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
        """Return the cells, each having read the `seen` cells and the `real` words."""
        cells = self.among_sum(cells, self.among(cells, cells, seen))
        cells = self.guided_sum(cells, self.guided(cells, words, real))
        return self.feed_sum(cells, self.feed(cells))
