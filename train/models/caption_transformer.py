"""The layers of a transformer whose norms come first, and the positions of words."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..data.words import PADDING
from ..records import FeatureNorm
from .captioner import Captioner, Cells
from .layers import MultiHeadAttention, Words
from .mcan import feed_forward
from .settings import TransformerCaptionerSettings

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


class Memory(NamedTuple):
    """What each decoder layer reads of the cells, projected once an image."""

    keys: Float[Tensor, "image layer head cell part"]
    values: Float[Tensor, "image layer head cell part"]
    mask: Bool[Tensor, "image cell"]


class State(NamedTuple):
    """What each decoder layer reads of the words written so far."""

    keys: Float[Tensor, "caption layer head token part"]
    values: Float[Tensor, "caption layer head token part"]


class Transformer(Captioner):
    """The captioner of CLIP-ViL's experiments (Vaswani et al. 2017, with norms first).

    Differences: features are standardised; a key has no bias, which softmax would drop; dropout
    in a sum, in a perceptron and in attention is one number.
    """

    def __init__(
        self, settings: TransformerCaptionerSettings, norm: FeatureNorm, *, words: int
    ) -> None:
        super().__init__()
        hidden, heads, dropout = settings.hidden, settings.heads, settings.dropout
        self.cells = Cells(settings, norm, hidden)
        self.encoder = nn.ModuleList(
            EncoderLayer(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.encoder_norm = nn.LayerNorm(hidden)
        self.words = Words(words, hidden)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(
            DecoderLayer(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, words)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.words.weight.data[PADDING] = 0

    def encode(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
    ) -> Memory:
        """Return the memory of images; `mask` is true for real cells, and no other counts."""
        cells = self.cells(features, mask, grid_shapes)
        for layer in self.encoder:
            cells = layer(cells, mask)
        cells = self.encoder_norm(cells)
        projected = [layer.across.project(cells) for layer in self._layers]
        keys, values = (torch.stack(parts, dim=1) for parts in zip(*projected, strict=True))
        return Memory(keys, values, mask)

    def logits(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word that follows each token, given those up to it."""
        words, _, _ = self.read(memory, _nothing(memory, len(tokens)), tokens)
        return self.classifier(words)

    def attention(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return where the last layer looks after each token, as a mean over its heads."""
        _, queries, _ = self.read(memory, _nothing(memory, len(tokens)), tokens)
        across = self._layers[-1].across
        weights = across.weights(
            by_image(queries, len(memory.mask)), memory.keys[:, -1], memory.mask
        )
        return weights.view(*tokens.shape, -1)

    def start(self, memory: Memory) -> State:
        """Return the state of one caption an image, of which nothing is written."""
        return _nothing(memory, len(memory.mask))

    def step(
        self, memory: Memory, state: State, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], State]:
        """Return the logits of the next word after `last`, and the state that has read `last`."""
        words, _, state = self.read(memory, state, last[:, None])
        return self.classifier(words[:, 0]), state

    def read(
        self, memory: Memory, state: State, tokens: Int[Tensor, "caption token"]
    ) -> tuple[
        Float[Tensor, "caption token channel"], Float[Tensor, "caption token channel"], State
    ]:
        """Return tokens as the last layer has them, its queries to the cells, and the state."""
        count, before = tokens.shape[1], state.keys.shape[3]
        vectors = self.words(tokens) * self.words.embedding_dim**0.5
        words = self.dropout(
            vectors + sinusoids(before, count, self.words.embedding_dim, tokens.device)
        )
        seen = torch.ones(count, before + count, dtype=torch.bool, device=tokens.device)
        seen = seen.tril(before)[None, None]  # a token sees itself and those before
        queries, pasts = words, []
        for number, layer in enumerate(self._layers):
            past = KeysValues(state.keys[:, number], state.values[:, number])
            cells = KeysValues(memory.keys[:, number], memory.values[:, number])
            words, queries, past = layer(words, past, seen, cells, memory.mask)
            pasts.append(past)
        keys, values = (torch.stack(parts, dim=1) for parts in zip(*pasts, strict=True))
        return self.decoder_norm(words), queries, State(keys, values)

    @property
    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]


def _nothing(memory: Memory, captions: int) -> State:
    _, layers, heads, _, part = memory.keys.shape
    nothing = memory.keys.new_empty(captions, layers, heads, 0, part)
    return State(nothing, nothing)
