"""A transformer that writes captions (Vaswani et al. 2017), with norms first as in CLIP-ViL."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from ..records import Records
from .captioner import Captioner, Cells
from .layers import MultiHeadAttention, WordEmbedding
from .mcan import feed_forward
from .settings import TransformerCaptionerSettings

MAX_WAVELENGTH = 10_000  # in words, times 2 pi (Vaswani et al. 2017, section 3.5)


class KeysValues(NamedTuple):
    """The keys and values of items that attention reads."""

    keys: Float[Tensor, "text head item part"]
    values: Float[Tensor, "text head item part"]


class DecoderOutputs(NamedTuple):
    """The outputs of a decoder layer."""

    words: Float[Tensor, "caption token channel"]
    queries: Float[Tensor, "caption token channel"]  # of its attention to the cells
    past: KeysValues  # of all words so far, including the new ones


class EncoderLayer(nn.Module):
    """Self-attention over cells, then a perceptron for each (Vaswani et al. 2017, section 3.1).

    The norms come before each part, not after it, as in CLIP-ViL's captioner.
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
        """Return the cells after attention to the real ones."""
        normed = self.among_norm(cells)
        cells = cells + self.dropout(self.among(normed, normed, mask))
        return cells + self.dropout(self.feed(self.feed_norm(cells)))


class DecoderLayer(nn.Module):
    """Attention to the words before, then to cells, then a perceptron; norms come first."""

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
    ) -> DecoderOutputs:
        """Return the new words after attention to the words where `seen` is true, and to the cells.

        The items of `seen` are the past and the new words. Captions of one image are next to each
        other, the same number for each image.
        """
        normed = self.before_norm(words)
        new = self.before.project(normed)
        items = KeysValues(*(torch.cat(pair, dim=2) for pair in zip(past, new, strict=True)))
        words = words + self.dropout(self.before.gather(normed, *items, seen))

        queries = self.across_norm(words)
        gathered = self.across.gather(by_image(queries, len(mask)), *cells, mask[:, None, None])
        words = words + self.dropout(gathered.view_as(words))
        words = words + self.dropout(self.feed(self.feed_norm(words)))
        return DecoderOutputs(words, queries, items)


def by_image(
    words: Float[Tensor, "caption token channel"], images: int
) -> Float[Tensor, "image words channel"]:
    """Return the words of all captions of an image as one sequence."""
    return words.reshape(images, -1, words.shape[-1])


def sinusoids(
    first: int, count: int, channels: int, device: torch.device
) -> Float32[Tensor, "position channel"]:
    """Return the position signals from position `first` on: sines and cosines alternate.

    Vaswani et al. 2017, section 3.5: channels 2i and 2i+1 at position p are the sine and the
    cosine of p / 10000^(2i / channels).
    """
    position = torch.arange(first, first + count, device=device)[:, None]
    even = torch.arange(0, channels, 2, device=device)
    angles = position * torch.exp(even * (-math.log(MAX_WAVELENGTH) / channels))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Memory(NamedTuple):
    """The keys and values of the cells for each decoder layer, projected once per image."""

    keys: Float[Tensor, "image layer head cell part"]
    values: Float[Tensor, "image layer head cell part"]
    mask: Bool[Tensor, "image cell"]


class State(NamedTuple):
    """The keys and values of the words so far for each decoder layer."""

    keys: Float[Tensor, "caption layer head token part"]
    values: Float[Tensor, "caption layer head token part"]


class TransformerCaptioner(Captioner):
    """The captioner of CLIP-ViL's experiments (Vaswani et al. 2017, with norms first).

    Differences from the published code: features can be normalised first; keys have no bias, which
    softmax would cancel; BEGIN, END and padding are three tokens, not one. In training mode the
    dropout of a word is drawn once when a caption is written word by word; the published code reads
    the words before again at each word, with other dropout.
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
        self.words = WordEmbedding(words, hidden)
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

    def encode(self, records: Records) -> Memory:
        """Return the memory of images; only cells where the mask is true have an effect."""
        cells, mask = self.cells(records)
        for layer in self.encoder:
            cells = layer(cells, mask)
        cells = self.encoder_norm(cells)
        projected = [layer.across.project(cells) for layer in self._layers]
        keys, values = (torch.stack(parts, dim=1) for parts in zip(*projected, strict=True))
        return Memory(keys, values, mask)

    def logits(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word after each token, given the tokens up to it."""
        words, _, _ = self.read(memory, _start_state(memory, len(tokens)), tokens)
        return self.classifier(words)

    def attention(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return the last layer's attention over cells after each token, the mean of its heads."""
        _, queries, _ = self.read(memory, _start_state(memory, len(tokens)), tokens)
        across = self._layers[-1].across
        weights = across.weights(
            by_image(queries, len(memory.mask)), memory.keys[:, -1], memory.mask
        )
        return weights.view(*tokens.shape, -1)

    def start(self, memory: Memory) -> State:
        """Return the state of one empty caption per image."""
        return _start_state(memory, len(memory.mask))

    def step(
        self, memory: Memory, state: State, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], State]:
        """Return the logits of the word after `last`, and the state that has read `last`."""
        words, _, state = self.read(memory, state, last[:, None])
        return self.classifier(words[:, 0]), state

    def read(
        self, memory: Memory, state: State, tokens: Int[Tensor, "caption token"]
    ) -> tuple[
        Float[Tensor, "caption token channel"], Float[Tensor, "caption token channel"], State
    ]:
        """Return the last layer's vectors of tokens, its queries to the cells, and the state."""
        count, before = tokens.shape[1], state.keys.shape[3]
        vectors = self.words(tokens) * self.words.embedding_dim**0.5
        words = self.dropout(
            vectors + sinusoids(before, count, self.words.embedding_dim, tokens.device)
        )
        seen = torch.ones(count, before + count, dtype=torch.bool, device=tokens.device)
        seen = seen.tril(before)[None, None]  # a token sees itself and the ones before
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


def _start_state(memory: Memory, captions: int) -> State:
    _, layers, heads, _, part = memory.keys.shape
    empty = memory.keys.new_empty(captions, layers, heads, 0, part)
    return State(empty, empty)
