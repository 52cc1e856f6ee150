"""UpDn, bottom-up and top-down attention (Anderson et al. 2018): for answers and for captions.

The answering models, a small one and the usual baseline, attend to the cells of a grid once. The
captioner has two LSTMs: at each word one attends to the cells, and the other writes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from ..records import Records
from .captioner import Captioner, Cells
from .layers import (
    AnswerBatch,
    Outputs,
    WordEmbedding,
    masked_mean,
    masked_softmax,
)
from .positions import add_positions, new_position
from .pythia import ProductAttention, weight_normed
from .settings import UpDnCaptionerSettings, UpDnLargeSettings, UpDnSettings

POSITION = 64  # channels of a cell's position


class QuestionEncoder(nn.Module):
    """The last state of a GRU over a question's words."""

    def __init__(self, *, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.words = WordEmbedding(tokens, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)

    def forward(self, tokens: Int[Tensor, "text token"]) -> Float[Tensor, "text hidden"]:
        """Return one vector per question; padding after the last word changes nothing."""
        states, _ = self.gru(self.words(tokens))  # text token hidden
        last = (tokens != PADDING).sum(dim=1) - 1
        return states[torch.arange(len(tokens), device=tokens.device), last]


class UpDn(nn.Module):
    """A small model in the manner of Anderson et al. 2018, section 3.3, over grid cells.

    Differences from the paper: features are normalised, projected to `hidden` channels with a
    LayerNorm and ReLU, and joined by the cell's position or the region's box; a cell is scored
    by a product in place of a concatenation, and the attended vector is a mean of projected cells,
    not of features; ReLU replaces gated tanh; there is dropout on cells, on products and in the
    classifier. `UpDnLarge` is closer to what others train.
    """

    def __init__(
        self, settings: UpDnSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        cell = hidden + POSITION if settings.positions else hidden
        self.norm = norm
        self.question = QuestionEncoder(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.appearance = nn.Sequential(
            nn.Linear(norm.channels, hidden), nn.LayerNorm(hidden), nn.ReLU()
        )
        self.position = new_position(norm, POSITION) if settings.positions else None
        self.query = nn.Sequential(nn.Linear(hidden, cell), nn.ReLU())
        self.attention = nn.Linear(cell, 1, bias=False)  # softmax cancels a bias
        self.question_for_fusion = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.image_for_fusion = nn.Sequential(nn.Linear(cell, hidden), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden, answers),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and its attention weights, which sum to 1 over cells.

        The contents of padding cells change nothing.
        """
        question = self.question(batch.tokens)  # text hidden
        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        cells = self.appearance(self.norm(batch.features, mask))  # image cell hidden
        if self.position is not None:
            position = self.position(cells, batch.grid_shapes, boxes)
            cells = torch.cat((cells, position), dim=-1)
        cells = self.dropout(cells)

        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, batch.image_of_text)  # text cell hidden+position
        scores = self.attention(self.dropout(cells * self.query(question)[:, None])).squeeze(-1)
        weights = masked_softmax(scores, mask.index_select(0, batch.image_of_text))  # text cell
        attended = torch.einsum("tc,tch->th", weights.to(cells.dtype), cells)

        fused = self.question_for_fusion(question) * self.image_for_fusion(attended)
        return Outputs(self.classifier(fused), weights)


class UpDnLarge(nn.Module):
    """The form of UpDn that is the usual baseline: that of hengyuan-hu/bottom-up-attention-vqa.

    Every layer has weight normalisation, cells are scored by products with the question, and the
    attended vector is a mean of the features themselves. Published: 63.67 on VQA v2's val with 36
    detected regions an image. Differences: features can be normalised first; the dropout before the
    attention's score is on the question's factor of the products, so that it is the same for all
    cells; the GRU does not read the padding, which stands before the first word there; the bias that
    softmax cancels is left out. With `positions` a cell's position is added to its features.
    """

    def __init__(
        self, settings: UpDnLargeSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, dim = settings.hidden, norm.channels
        self.norm = norm
        self.question = QuestionEncoder(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.position = new_position(norm, dim) if settings.positions else None
        self.attention = ProductAttention(
            dim=dim, question=hidden, joint=hidden, dropout=settings.attention_dropout
        )
        self.question_for_fusion = nn.Sequential(weight_normed(hidden, hidden), nn.ReLU())
        self.image_for_fusion = nn.Sequential(weight_normed(dim, hidden), nn.ReLU())
        self.classifier = nn.Sequential(
            weight_normed(hidden, 2 * hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            weight_normed(2 * hidden, answers),
        )

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits and its attention weights, which sum to 1 over cells.

        The contents of padding cells change nothing.
        """
        question = self.question(batch.tokens)  # text hidden
        mask, boxes = self.norm.seen(batch.mask, batch.boxes)
        cells = self.norm(batch.features, mask)  # image cell dim
        cells = add_positions(cells, self.position, batch.grid_shapes, boxes)
        weights = self.attention(cells, mask, batch.image_of_text, question)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        attended = torch.einsum("tc,tcd->td", weights, cells.index_select(0, batch.image_of_text))
        fused = self.question_for_fusion(question) * self.image_for_fusion(attended)
        return Outputs(self.classifier(fused), weights)


class Memory(NamedTuple):
    """What the captioner keeps of images."""

    cells: Float[Tensor, "image cell hidden"]
    keys: Float[Tensor, "image cell attention"]
    mean: Float[Tensor, "image hidden"]  # of the real cells
    mask: Bool[Tensor, "image cell"]


class State(NamedTuple):
    """What the two LSTMs keep of unfinished captions."""

    attention_hidden: Float[Tensor, "caption hidden"]
    attention_cell: Float[Tensor, "caption hidden"]
    language_hidden: Float[Tensor, "caption hidden"]
    language_cell: Float[Tensor, "caption hidden"]


class UpDnCaptioner(Captioner):
    """The captioner of Anderson et al. 2018, section 3.2.

    Differences from the paper: features are normalised and projected, with ReLU and dropout, and
    both LSTMs read the projected cells, as in the public code (ruotianluo/ImageCaptioning.pytorch);
    there is dropout on words and on the state from which a word is chosen, as in that code. It has
    two things more: a ReLU on words, and a projection of its own for the mean of the features, which
    is here the mean of the projected cells. With `positions` cells carry their position; neither has
    that.
    """

    def __init__(self, settings: UpDnCaptionerSettings, norm: FeatureNorm, *, words: int) -> None:
        super().__init__()
        embedding, hidden, attention = settings.embedding, settings.hidden, settings.attention
        self.cells = Cells(settings, norm, hidden)
        self.words = WordEmbedding(words, embedding)
        self.attention_lstm = nn.LSTMCell(2 * hidden + embedding, hidden)
        self.key = nn.Linear(hidden, attention, bias=False)  # nor has the query
        self.query = nn.Linear(hidden, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.language_lstm = nn.LSTMCell(2 * hidden, hidden)
        self.classifier = nn.Linear(hidden, words)
        self.dropout = nn.Dropout(settings.dropout)

    def encode(self, records: Records) -> Memory:
        """Return the memory of images; only cells where the mask is true have an effect."""
        cells, mask = self.cells(records)
        mean = masked_mean(cells, mask).to(cells.dtype)
        return Memory(cells, self.key(cells), mean, mask)

    def logits(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word after each token, given the tokens up to it."""
        hidden, _ = self._read(memory, tokens)
        return self.classifier(self.dropout(hidden))

    def attention(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return the attention over cells for the word after each token; it sums to 1."""
        _, weights = self._read(memory, tokens)
        return weights

    def start(self, memory: Memory) -> State:
        """Return the state of one empty caption per image."""
        return _start_state(memory, len(memory.mask))

    def step(
        self, memory: Memory, state: State, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], State]:
        """Return the logits of the word after `last`, and the state that has read `last`."""
        state, _ = self._advance(memory, state, self.dropout(self.words(last)))
        return self.classifier(self.dropout(state.language_hidden)), state

    def _read(
        self, memory: Memory, tokens: Int[Tensor, "caption token"]
    ) -> tuple[Float[Tensor, "caption token hidden"], Float32[Tensor, "caption token cell"]]:
        """Return the language LSTM's state after each token, and the weights over cells."""
        state = _start_state(memory, len(tokens))
        hidden, weights = [], []
        for vectors in self.dropout(self.words(tokens)).unbind(dim=1):
            state, attention = self._advance(memory, state, vectors)
            hidden.append(state.language_hidden)
            weights.append(attention)
        return torch.stack(hidden, dim=1), torch.stack(weights, dim=1)

    def _advance(
        self, memory: Memory, state: State, vectors: Float[Tensor, "caption embedding"]
    ) -> tuple[State, Float32[Tensor, "caption cell"]]:
        """Return the state that has read one more word, and the weights over cells."""
        images = len(memory.mask)
        each = len(vectors) // images  # captions per image
        mean = memory.mean.repeat_interleave(each, dim=0)
        inputs = torch.cat((state.language_hidden, mean, vectors), dim=1)
        hidden, cell = self.attention_lstm(inputs, (state.attention_hidden, state.attention_cell))

        queries = self.query(hidden).view(images, each, 1, -1)
        scores = self.score((memory.keys[:, None] + queries).tanh()).squeeze(-1)
        weights = masked_softmax(scores, memory.mask[:, None])  # image each cell
        attended = (weights.to(memory.cells.dtype) @ memory.cells).flatten(0, 1)

        inputs = torch.cat((attended, hidden), dim=1)
        language = self.language_lstm(inputs, (state.language_hidden, state.language_cell))
        return State(hidden, cell, *language), weights.flatten(0, 1)


def _start_state(memory: Memory, captions: int) -> State:
    return State(*memory.mean.new_zeros(4, captions, memory.mean.shape[1]))
