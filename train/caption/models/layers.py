"""The layers of a transformer whose norms come first, and the positions of words."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from ...models.attention import MultiHeadAttention
from ...models.coattention import feed_forward

SLOWEST = 10_000  # the longest wavelength, in words and over 2 pi (Vaswani et al. 2017, 3.5)


class KeysValues(NamedTuple):
    """What attention keeps of items."""

    keys: Float[Tensor, "text head item part"]
    values: Float[Tensor, "text head item part"]


class Read(NamedTuple):
    """What a decoder layer makes of words."""

    words: Float[Tensor, "caption token channel"]
    queries: Float[Tensor, "caption token channel"]  # with which it looked at the cells
    past: KeysValues  # of its words, those before among them


class EncoderLayer(nn.Module):
    """Cells read each other, then a perceptron at each: Vaswani et al. 2017, section 3.1.

    The norms stand before each part, not after it, as in CLIP-ViL's captioner.
    """

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.among_norm, self.feed_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.among = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.feed = feed_forward(channels, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, cells: Float[Tensor, "image cell channel"], mask: Bool[Tensor, "image cell"]
    ) -> Float[Tensor, "image cell channel"]:
        """Return the cells, each having read the real ones."""
        normed = self.among_norm(cells)
        cells = cells + self.dropout(self.among(normed, normed, mask))
        return cells + self.dropout(self.feed(self.feed_norm(cells)))


class DecoderLayer(nn.Module):
    """Words read those before them, then cells, then a perceptron at each; norms come first."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_norm, self.across_norm, self.feed_norm = (
            nn.LayerNorm(channels) for _ in range(3)
        )
        self.before = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.across = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.feed = feed_forward(channels, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Float[Tensor, "caption token channel"],
        past: KeysValues,
        seen: Bool[Tensor, "1 1 token item"],
        cells: KeysValues,
        mask: Bool[Tensor, "image cell"],
    ) -> Read:
        """Return new words, each having read the items it has `seen`: the past, and new words.

        Captions of one image stand side by side, equally many for each.
        """
        normed = self.before_norm(words)
        items = KeysValues(*map(_joined, past, self.before.project(normed)))
        words = words + self.dropout(self.before.gather(normed, *items, seen))

        queries = self.across_norm(words)
        found = self.across.gather(by_image(queries, len(mask)), *cells, mask[:, None, None])
        words = words + self.dropout(found.view_as(words))
        words = words + self.dropout(self.feed(self.feed_norm(words)))
        return Read(words, queries, items)


def by_image(
    words: Float[Tensor, "caption token channel"], images: int
) -> Float[Tensor, "image words channel"]:
    """Return the words of all captions of an image in one row."""
    return words.reshape(images, -1, words.shape[-1])


def sinusoids(
    first: int, count: int, channels: int, device: torch.device
) -> Float32[Tensor, "position channel"]:
    """Return the positions from `first` on: sines and cosines by turns.

    Vaswani et al. 2017, section 3.5: channels 2i and 2i+1 at position p are the sine and the
    cosine of p / 10000^(2i / channels).
    """
    position = torch.arange(first, first + count, device=device)[:, None]
    even = torch.arange(0, channels, 2, device=device)
    angles = position * torch.exp(even * (-math.log(SLOWEST) / channels))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def _joined(past: Tensor, new: Tensor) -> Tensor:
    return torch.cat((past, new), dim=2)
