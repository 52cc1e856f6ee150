"""Captions written word by word: the likeliest word each time, or one by chance."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ....base.errors import UsageError
from ...texts.words import PADDING
from ..data.tokens import BEGIN, END
from ..models.captioner import Captioner, select
from .captions import Captions
from .rules import allowed, require_rules

MAX_TOKENS = 20  # of a caption, END among them; the field writes no longer ones


def greedy(
    model: Captioner, memory: Any, *, max_tokens: int = MAX_TOKENS, no_repeat: int = 0
) -> Captions:
    """Return one caption of each image, the likeliest word at each place.

    It ends with END or after `max_tokens`; where `no_repeat` is n > 0, no n words follow each
    other twice. As every decoder, it takes no gradients and the model in the mode it is in, so
    set that to evaluation before. Raises UsageError for a rule out of range.
    """

    def likeliest(scores: Float32[Tensor, "row word"]) -> Int[Tensor, " row"]:
        return scores.argmax(dim=1)

    return _write(model, memory, likeliest, each=1, max_tokens=max_tokens, no_repeat=no_repeat)


def sample(
    model: Captioner,
    memory: Any,
    *,
    samples: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    nucleus: float = 1.0,
    max_tokens: int = MAX_TOKENS,
    no_repeat: int = 0,
) -> Captions:
    """Return `samples` captions of each image, each word drawn by `generator`, on its device.

    A word's probability is the softmax of its logit over `temperature`, among the words that may
    follow. With `nucleus` below 1 only the likeliest words are drawn from, as few as together
    have so much of it (Holtzman et al. 2020, section 3.1). Takes no gradients; to learn from the
    captions, score them with `log_probabilities`. Raises UsageError for a rule out of range.
    """
    if samples < 1:
        raise UsageError(f"samples must be at least 1; got {samples}")
    if not temperature > 0:
        raise UsageError(f"temperature must be more than 0; got {temperature}")
    if not 0 < nucleus <= 1:
        raise UsageError(f"nucleus must be more than 0 and at most 1; got {nucleus}")

    def by_chance(scores: Float32[Tensor, "row word"]) -> Int[Tensor, " row"]:
        chances = (scores / temperature).softmax(dim=1)
        if nucleus < 1:
            chances = within_nucleus(chances, nucleus)
        return torch.multinomial(chances, 1, generator=generator).squeeze(1)

    return _write(
        model, memory, by_chance, each=samples, max_tokens=max_tokens, no_repeat=no_repeat
    )


def within_nucleus(
    chances: Float32[Tensor, "row word"], share: float
) -> Float32[Tensor, "row word"]:
    """Return the chances of the likeliest words that together have `share`, zero for the rest."""
    ordered, words = chances.sort(dim=1, descending=True)
    enough = ordered.cumsum(dim=1) - ordered >= share  # the words before have it already
    return torch.zeros_like(chances).scatter_(1, words, ordered.masked_fill(enough, 0.0))


@torch.no_grad()
def _write(
    model: Captioner,
    memory: Any,
    choose: Callable[[Tensor], Tensor],
    *,
    each: int,
    max_tokens: int,
    no_repeat: int,
) -> Captions:
    """Return `each` captions an image; `choose` takes the scores of the words that may follow."""
    require_rules(max_tokens=max_tokens, no_repeat=no_repeat)
    state = model.start(memory)
    device, images = state[0].device, len(state[0])
    state = select(state, torch.arange(images, device=device).repeat_interleave(each))
    tokens = torch.full((images * each, 1), BEGIN, device=device)
    ended = torch.zeros(images * each, dtype=torch.bool, device=device)
    steps = []
    while len(steps) < max_tokens and not ended.all():
        logits, state = model.step(memory, state, tokens[:, -1])
        scores = logits.float().log_softmax(dim=1)
        word = choose(allowed(scores, tokens, no_repeat=no_repeat))
        steps.append(scores.gather(1, word[:, None])[:, 0].masked_fill(ended, 0.0))
        tokens = torch.cat((tokens, word.masked_fill(ended, PADDING)[:, None]), dim=1)
        ended |= word == END
    return Captions(
        tokens.unflatten(0, (images, each)), torch.stack(steps, dim=1).unflatten(0, (images, each))
    )
