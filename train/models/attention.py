"""Attention over padded sets: from many queries by many heads, and to a few vectors."""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def masked_softmax(
    scores: Float[Tensor, "*batch item"], real: Bool[Tensor, "*#batch item"]
) -> Float32[Tensor, "*batch item"]:
    """Return weights over the real items, in float32 under any autocast; padding gets zero."""
    return scores.float().masked_fill(~real, -torch.inf).softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several heads (Vaswani et al. 2017, section 3.2).

    A key has no bias: it would add one number to all scores of a query, which softmax drops.
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
        """Return what each query gathers from the real items, of which a text has one at least."""
        return self.gather(queries, *self.project(items), real[:, None, None])

    def project(
        self, items: Float[Tensor, "text item channel"]
    ) -> tuple[Float[Tensor, "text head item part"], Float[Tensor, "text head item part"]]:
        """Return the keys and the values of items, which may be kept for later queries."""
        return self._split(self.key(items)), self._split(self.value(items))

    def gather(
        self,
        queries: Float[Tensor, "text query channel"],
        keys: Float[Tensor, "text head item part"],
        values: Float[Tensor, "text head item part"],
        seen: Bool[Tensor, "#text 1 #query item"] | None,
    ) -> Float[Tensor, "text query channel"]:
        """Return what each query gathers from the items that it has `seen`; None is all."""
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
    """Some items to a few vectors: sums of them, weighted by a perceptron and a softmax.

    Yu et al. 2019 (MCAN), section 3.3, with one glimpse; Pythia's question attention, with two.
    """

    def __init__(self, channels: int, *, inner: int, glimpses: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(channels, inner),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(inner, glimpses, bias=False),  # softmax drops a bias
        )

    def forward(
        self, items: Float[Tensor, "text item channel"], real: Bool[Tensor, "text item"]
    ) -> tuple[Float[Tensor, "text glimpse channel"], Float32[Tensor, "text glimpse item"]]:
        """Return the vectors, and the weights that they have over the items."""
        weights = masked_softmax(self.score(items).transpose(1, 2), real[:, None])
        return torch.einsum("tgi,tic->tgc", weights.to(items.dtype), items), weights
