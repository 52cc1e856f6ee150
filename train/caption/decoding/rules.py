"""Which words may come next."""

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ....base.errors import UsageError
from ...texts.words import PADDING, UNKNOWN
from ..data.tokens import BEGIN

NEVER = (PADDING, UNKNOWN, BEGIN)  # are never written


def require_rules(*, max_tokens: int, no_repeat: int) -> None:
    """Raise UsageError where the rules that every decoder has are out of range."""
    if max_tokens < 1:
        raise UsageError(f"max_tokens must be at least 1; got {max_tokens}")
    if no_repeat < 0:
        raise UsageError(f"no_repeat is a number of words, 0 for no such rule; got {no_repeat}")


def allowed(
    log_probabilities: Float32[Tensor, "row word"],
    tokens: Int[Tensor, "row token"],
    *,
    no_repeat: int,
) -> Float32[Tensor, "row word"]:
    """Return the log-probabilities with -inf for every word that may not follow `tokens`.

    UNKNOWN is never written. Where `no_repeat` is n > 0, no n words follow each other twice.
    """
    barred = torch.zeros_like(log_probabilities, dtype=torch.bool)
    barred[:, list(NEVER)] = True
    if 0 < no_repeat < tokens.shape[1]:
        grams = tokens.unfold(1, no_repeat, 1)  # row place n
        ending = tokens[:, tokens.shape[1] - no_repeat + 1 :]  # what the next word would complete
        matches = (grams[:, :, :-1] == ending[:, None]).all(dim=-1)
        barred.scatter_(1, torch.where(matches, grams[:, :, -1], PADDING), value=True)
    return log_probabilities.masked_fill(barred, -torch.inf)
