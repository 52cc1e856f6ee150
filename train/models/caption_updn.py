"""UpDn: one LSTM attends to the cells of a grid at each word, a second one writes."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..records import FeatureNorm
from .captioner import Captioner, Cells
from .layers import Words, masked_softmax
from .settings import UpDnCaptionerSettings


class Memory(NamedTuple):
    """What is kept of images."""

    cells: Float[Tensor, "image cell hidden"]
    keys: Float[Tensor, "image cell attention"]
    mean: Float[Tensor, "image hidden"]  # of the real cells
    mask: Bool[Tensor, "image cell"]


class State(NamedTuple):
    """What the two LSTMs keep of captions begun."""

    attention_hidden: Float[Tensor, "caption hidden"]
    attention_cell: Float[Tensor, "caption hidden"]
    language_hidden: Float[Tensor, "caption hidden"]
    language_cell: Float[Tensor, "caption hidden"]


class UpDn(Captioner):
    """The captioner of Anderson et al. 2018, section 3.2.

    Differences: features are standardised and projected; dropout on words and on the state that
    a word is chosen from, of which the paper says nothing.
    """

    def __init__(self, settings: UpDnCaptionerSettings, norm: FeatureNorm, *, words: int) -> None:
        super().__init__()
        embedding, hidden, attention = settings.embedding, settings.hidden, settings.attention
        self.cells = Cells(settings, norm, hidden)
        self.words = Words(words, embedding)
        self.attention_lstm = nn.LSTMCell(2 * hidden + embedding, hidden)
        self.key = nn.Linear(hidden, attention, bias=False)  # the query has none either
        self.query = nn.Linear(hidden, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.language_lstm = nn.LSTMCell(2 * hidden, hidden)
        self.classifier = nn.Linear(hidden, words)
        self.dropout = nn.Dropout(settings.dropout)

    def encode(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
    ) -> Memory:
        """Return the memory of images; `mask` is true for real cells, and no other counts."""
        cells = self.cells(features, mask, grid_shapes)
        # float32: under autocast a sum over a large grid would lose its last cells
        total = torch.where(mask[..., None], cells, 0.0).sum(dim=1, dtype=torch.float32)
        mean = total / mask.sum(dim=1)[:, None]
        return Memory(cells, self.key(cells), mean.to(cells.dtype), mask)

    def logits(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word that follows each token, given those up to it."""
        hidden, _ = self._read(memory, tokens)
        return self.classifier(self.dropout(hidden))

    def attention(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return where the model looks for the word that follows each token; sums to 1."""
        _, weights = self._read(memory, tokens)
        return weights

    def start(self, memory: Memory) -> State:
        """Return the state of one caption an image, of which nothing is written."""
        return _nothing(memory, len(memory.mask))

    def step(
        self, memory: Memory, state: State, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], State]:
        """Return the logits of the next word after `last`, and the state that has read `last`."""
        state, _ = self._advance(memory, state, self.dropout(self.words(last)))
        return self.classifier(self.dropout(state.language_hidden)), state

    def _read(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> tuple[Float[Tensor, "caption token hidden"], Float32[Tensor, "caption token cell"]]:
        """Return the language LSTM's state after each token, and the weights over cells."""
        state = _nothing(memory, len(tokens))
        hidden, weights = [], []
        for vectors in self.dropout(self.words(tokens)).unbind(dim=1):
            state, looked = self._advance(memory, state, vectors)
            hidden.append(state.language_hidden)
            weights.append(looked)
        return torch.stack(hidden, dim=1), torch.stack(weights, dim=1)

    def _advance(
        self, memory: Memory, state: State, vectors: Float[Tensor, "caption embedding"]
    ) -> tuple[State, Float32[Tensor, "caption cell"]]:
        """Return the state that has read one more word, and the weights over cells."""
        images = len(memory.mask)
        each = len(vectors) // images  # captions of an image
        mean = memory.mean.repeat_interleave(each, dim=0)
        seeing = torch.cat((state.language_hidden, mean, vectors), dim=1)
        hidden, cell = self.attention_lstm(seeing, (state.attention_hidden, state.attention_cell))

        queries = self.query(hidden).view(images, each, 1, -1)
        scores = self.score((memory.keys[:, None] + queries).tanh()).squeeze(-1)
        weights = masked_softmax(scores, memory.mask[:, None])  # image each cell
        attended = (weights.to(memory.cells.dtype) @ memory.cells).flatten(0, 1)

        writing = torch.cat((attended, hidden), dim=1)
        language = self.language_lstm(writing, (state.language_hidden, state.language_cell))
        return State(hidden, cell, *language), weights.flatten(0, 1)


def _nothing(memory: Memory, captions: int) -> State:
    return State(*memory.mean.new_zeros(4, captions, memory.mean.shape[1]))
