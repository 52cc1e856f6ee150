"""What decoding returns, and the log-probability of any caption under a model."""

from typing import Any, NamedTuple

from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...texts.words import PADDING
from ..models.captioner import Captioner


class Captions(NamedTuple):
    """Some captions of each image: BEGIN, words, END, padding; without END where cut off.

    A caption's log-probability is that of its words and END under the model as it is, whatever
    rules a decoder put on top. -inf marks places for which there was no caption.
    """

    tokens: Int[Tensor, "image caption token"]
    log_probabilities: Float32[Tensor, "image caption step"]  # of tokens[:, :, 1:]; 0 in padding

    @property
    def totals(self) -> Float32[Tensor, "image caption"]:
        """The log-probability of each caption as a whole."""
        return self.log_probabilities.sum(dim=-1)


def log_probabilities(
    model: Captioner, memory: Any, tokens: Int[Tensor, "caption token"]
) -> Float32[Tensor, "caption step"]:
    """Return the log-probability of each token after the first, with gradients; 0 in padding.

    Captions are BEGIN, words, END, padding, equally many of each image of the memory, side by
    side. What a decoder returned may be scored again thus, to learn from it:
    `log_probabilities(model, memory, captions.tokens.flatten(0, 1))`; or with `of_tokens` and the
    logits of the model called as a whole, which training on several GPUs wants.
    """
    return of_tokens(model.logits(memory, tokens[:, :-1]), tokens)


def of_tokens(
    logits: Float[Tensor, "caption step word"], tokens: Int[Tensor, "caption token"]
) -> Float32[Tensor, "caption step"]:
    """Return the log-probability of each token after the first by its logits; 0 in padding."""
    # `ignore_index` gives 0 there, of no gradient.
    return -cross_entropy(
        logits.float().transpose(1, 2), tokens[:, 1:], ignore_index=PADDING, reduction="none"
    )
