"""Parts that several models share: words, attention, and heads."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..data.vocabulary import PADDING, SPECIAL_TOKENS
from ..records import NO_BOXES

EPSILON = 1e-12  # of BERT's layer norms


class AnswerBatch(NamedTuple):
    """Some texts, and the images that they are about, each once: what a model answers.

    In training, copies of some texts with one word hidden, which the model is to name, may follow
    them: `copy` of the `row` texts. The others have a row of `targets`.
    """

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]  # True for real cells
    grid_shapes: Int[Tensor, "image 2"]  # rows, cols
    image_of_text: Int[Tensor, " row"]
    tokens: Int[Tensor, "row token"]
    targets: Float32[Tensor, "text answer"]  # scores of the answers, which the loss reads
    hidden_words: Int[Tensor, " copy"] = torch.zeros(0, dtype=torch.int64)  # their classes
    boxes: Float32[Tensor, "image cell 5"] = NO_BOXES  # of regions, as in Records


class Outputs(NamedTuple):
    """Logits of each text, and the model's attention over the grid."""

    logits: Float[Tensor, "text answer"]
    attention: Float[Tensor, "text cell"]  # sums to 1; zero in padding cells
    # Logits of further heads, which add to the loss and are not used at inference.
    auxiliary_logits: tuple[Float[Tensor, "text answer"], ...] = ()


class WordEmbedding(nn.Embedding):
    """Vectors of tokens; that of padding is zero and stays zero."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__(tokens, channels, padding_idx=PADDING)

    def fill(self, rows: Int[Tensor, " word"], vectors: Float32[Tensor, "word channel"]) -> None:
        """Set the vectors of the words numbered `rows` (0 is the first)."""
        self.weight.data[rows + SPECIAL_TOKENS] = vectors


class WordStates(nn.Module):
    """The states of an LSTM at every word of a text."""

    def __init__(self, *, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.words = WordEmbedding(tokens, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)

    def forward(
        self, tokens: Int[Tensor, "text token"]
    ) -> tuple[Float[Tensor, "text token hidden"], Bool[Tensor, "text token"]]:
        """Return the states, and which are of real words.

        The LSTM reads forwards only, so that padding after the last word changes no real state.
        """
        # oneDNN has a bfloat16 LSTM only on processors with AVX-512 or AMX for it. On any CPU an
        # LSTM is float32 here, so that a run does not depend on the processor; GPUs are unaffected.
        with torch.autocast("cpu", enabled=False):
            states, _ = self.lstm(self.words(tokens))
        return states, tokens != PADDING


def packed_states(
    lstm: nn.LSTM,
    inputs: Float[Tensor, "row place channel"],
    lengths: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "row place state"], Float[Tensor, "direction row hidden"]]:
    """Return the states of a bidirectional LSTM within the lengths, 0 after them, and its last cells."""
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, (_, cells) = lstm(packed)
    padded, _ = pad_packed_sequence(states, batch_first=True, total_length=inputs.shape[1])
    return padded, cells


def masked_softmax(
    scores: Float[Tensor, "*batch item"], real: Bool[Tensor, "*#batch item"]
) -> Float32[Tensor, "*batch item"]:
    """Return weights over the real items, in float32 under any autocast; zero for padding."""
    return scores.float().masked_fill(~real, -torch.inf).softmax(dim=-1)


def masked_mean(
    items: Float[Tensor, "batch item channel"], real: Bool[Tensor, "batch item"]
) -> Float32[Tensor, "batch channel"]:
    """Return the mean over the real items, in float32 under any autocast."""
    # In bfloat16 a sum over a large grid would lose its last cells.
    total = torch.where(real[..., None], items, 0.0).sum(dim=1, dtype=torch.float32)
    return total / real.sum(dim=1, keepdim=True)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several heads (Vaswani et al. 2017, section 3.2).

    Keys have no bias: it would add one number to all scores of a query, which softmax cancels.
    """

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels)
        self.merge = nn.Linear(channels, channels)

    def forward(
        self,
        queries: Float[Tensor, "text query channel"],
        items: Float[Tensor, "text item channel"],
        real: Bool[Tensor, "text item"],
    ) -> Float[Tensor, "text query channel"]:
        """Return what each query gathers from the real items; each text must have at least one."""
        return self.gather(queries, *self.project(items), real[:, None, None])

    def project(
        self, items: Float[Tensor, "text item channel"]
    ) -> tuple[Float[Tensor, "text head item part"], Float[Tensor, "text head item part"]]:
        """Return the keys and the values of items, which can be kept for later queries."""
        return self._split(self.key(items)), self._split(self.value(items))

    def gather(
        self,
        queries: Float[Tensor, "text query channel"],
        keys: Float[Tensor, "text head item part"],
        values: Float[Tensor, "text head item part"],
        seen: Bool[Tensor, "#text 1 #query item"] | Float[Tensor, "#text 1 #query item"] | None,
    ) -> Float[Tensor, "text query channel"]:
        """Return what each query gathers from the items where `seen` is true; None is all items.

        Numbers in place of truth values are added to the scores before softmax.
        """
        heads = scaled_dot_product_attention(
            self._split(self.query(queries)),
            keys,
            values,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.merge(heads.transpose(1, 2).flatten(-2))

    def weights(
        self,
        queries: Float[Tensor, "text query channel"],
        keys: Float[Tensor, "text head item part"],
        real: Bool[Tensor, "text item"],
    ) -> Float32[Tensor, "text query item"]:
        """Return how much each query gathers from each real item, as a mean over the heads."""
        scores = self._split(self.query(queries)) @ keys.transpose(-1, -2)
        return masked_softmax(scores / keys.shape[-1] ** 0.5, real[:, None, None]).mean(dim=1)

    def _split(
        self, rows: Float[Tensor, "text item channel"]
    ) -> Float[Tensor, "text head item part"]:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Reduction(nn.Module):
    """Reduces items to a few vectors: sums of them, weighted by a perceptron and a softmax.

    Yu et al. 2019 (MCAN), section 3.3, with one glimpse; Pythia's question attention, with two.
    """

    def __init__(self, channels: int, *, inner: int, glimpses: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(channels, inner),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(inner, glimpses, bias=False),  # softmax cancels a bias
        )

    def forward(
        self, items: Float[Tensor, "text item channel"], real: Bool[Tensor, "text item"]
    ) -> tuple[Float[Tensor, "text glimpse channel"], Float32[Tensor, "text glimpse item"]]:
        """Return the vectors, and the weights that they have over the items."""
        weights = masked_softmax(self.score(items).transpose(1, 2), real[:, None])
        return torch.einsum("tgi,tic->tgc", weights.to(items.dtype), items), weights


class SumHead(nn.Module):
    """Logits from the norm of a sum of projected vectors (Yu et al. 2019, MCAN, section 3.3)."""

    def __init__(self, channels: int, *, vectors: int, joint: int, answers: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(channels, joint) for _ in range(vectors))
        self.norm = nn.LayerNorm(joint)
        self.classifier = nn.Linear(joint, answers)

    def forward(self, *vectors: Float[Tensor, "text channel"]) -> Float[Tensor, "text answer"]:
        """Return each text's logits, from as many vectors as the head was built for."""
        projected = [project(v) for project, v in zip(self.project, vectors, strict=True)]
        return self.classifier(self.norm(torch.stack(projected).sum(dim=0)))


class AnswerHead(nn.Sequential):
    """Logits of answers from the state of the first piece.

    The head of LXMERT and CLIP-ViL_p, which read that state through BERT's pooler, a linear layer.
    """

    def __init__(self, channels: int, answers: int) -> None:
        super().__init__(
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.LayerNorm(2 * channels, eps=EPSILON),
            nn.Linear(2 * channels, answers),
        )
