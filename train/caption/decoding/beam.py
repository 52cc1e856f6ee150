"""Beam search: the best captions of each image, kept side by side while they are written."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from ....base.errors import UsageError
from ...texts.words import PADDING
from ..data.tokens import BEGIN, END
from ..models.captioner import Captioner, select
from .captions import Captions
from .rules import allowed, require_rules
from .sampling import MAX_TOKENS

DIVERSITY = 0.5  # what a word costs for each earlier group of beams that has it


class Beams(NamedTuple):
    """Captions begun, beam by beam for each image; -inf is the total of a beam not yet in use."""

    tokens: Int[Tensor, "image beam token"]
    steps: Float32[Tensor, "image beam step"]  # log-probabilities
    totals: Float32[Tensor, "image beam"]

    @property
    def ended(self) -> Bool[Tensor, "image beam"]:
        """Which captions are written to their end."""
        return (self.tokens[..., -1] == END) | (self.tokens[..., -1] == PADDING)


@torch.no_grad()
def beam_search(
    model: Captioner,
    memory: Any,
    *,
    beams: int,
    alpha: float = 0.0,
    groups: int = 1,
    diversity: float = DIVERSITY,
    max_tokens: int = MAX_TOKENS,
    no_repeat: int = 0,
) -> Captions:
    """Return the captions in the beams of each image, the best first.

    Captions are ranked by log-probability over length^alpha (Wu et al. 2016, section 7), END and
    words both counted; a caption that has ended keeps its beam as long as no other outranks it,
    and one beam is greedy decoding. With `groups`, each has its part of the beams, and a word
    costs `diversity` for each time that an earlier group has it at the same place (diverse beam
    search, Vijayakumar et al. 2016, with Hamming diversity); the ranking at the end is without.
    Rules are those of `greedy`. Raises UsageError where one is out of range.
    """
    require_rules(max_tokens=max_tokens, no_repeat=no_repeat)
    _require_beams(beams, alpha, groups, diversity)
    state = model.start(memory)
    found = _start(len(state[0]), beams, groups, state[0].device)
    first = torch.arange(found.totals.numel(), device=state[0].device)  # of all images' beams
    state = select(state, first // beams)
    for length in range(1, max_tokens + 1):
        logits, state = model.step(memory, state, found.tokens[..., -1].flatten())
        scores = logits.float().log_softmax(dim=1)
        scores = allowed(scores, found.tokens.flatten(0, 1), no_repeat=no_repeat)
        scores = _ended_stay(scores.unflatten(0, found.totals.shape), found.ended)
        parents, words = _choose(found, scores, length, alpha, groups, diversity)
        found = _grow(found, scores, parents, words)
        if bool((found.ended | found.totals.isinf()).all()):
            break
        state = select(state, (first.view_as(parents) // beams * beams + parents).flatten())
    return _ranked(found, alpha)


def _require_beams(beams: int, alpha: float, groups: int, diversity: float) -> None:
    if beams < 1:
        raise UsageError(f"beams must be at least 1; got {beams}")
    if not alpha >= 0:
        raise UsageError(f"alpha must be at least 0; got {alpha}")
    if groups < 1 or beams % groups:
        raise UsageError(f"groups must divide beams, {beams}; got {groups}")
    if not diversity >= 0:
        raise UsageError(f"diversity must be at least 0; got {diversity}")


def _start(images: int, beams: int, groups: int, device: torch.device) -> Beams:
    """Return beams of which the first of each group is in use, with nothing written."""
    totals = torch.full((images, groups, beams // groups), -torch.inf, device=device)
    totals[:, :, 0] = 0.0
    return Beams(
        tokens=torch.full((images, beams, 1), BEGIN, device=device),
        steps=torch.zeros(images, beams, 0, device=device),
        totals=totals.flatten(1),
    )


def _ended_stay(
    scores: Float32[Tensor, "image beam word"], ended: Bool[Tensor, "image beam"]
) -> Float32[Tensor, "image beam word"]:
    """Return the scores with padding, at no cost, as all that follows a caption's end."""
    scores = scores.masked_fill(ended[..., None], -torch.inf)
    scores[..., PADDING] = scores[..., PADDING].masked_fill(ended, 0.0)
    return scores


def _choose(
    found: Beams,
    scores: Float32[Tensor, "image beam word"],
    length: int,
    alpha: float,
    groups: int,
    diversity: float,
) -> tuple[Int[Tensor, "image beam"], Int[Tensor, "image beam"]]:
    """Return for each beam the beam that it goes on from, of the same group, and its next word.

    `length` is that of captions that go on, the next word among it.
    """
    images, beams, words = scores.shape
    size = beams // groups
    lengths = torch.where(found.ended, _lengths(found.tokens), length)
    taken = scores.new_zeros(images, words)  # how often an earlier group has a word
    chosen = []
    for start in range(0, beams, size):
        group = slice(start, start + size)
        totals = found.totals[:, group, None] + scores[:, group] - diversity * taken[:, None]
        ranks = totals / lengths[:, group, None] ** alpha
        best = ranks.flatten(1).topk(size, dim=1).indices  # image size
        chosen.append((start + best // words, best % words))
        taken = taken.scatter_add(1, best % words, torch.ones_like(best, dtype=taken.dtype))
        taken[:, PADDING] = 0.0  # no word
    parents, following = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
    return parents, following


def _grow(
    found: Beams,
    scores: Float32[Tensor, "image beam word"],
    parents: Int[Tensor, "image beam"],
    words: Int[Tensor, "image beam"],
) -> Beams:
    """Return the beams with one more word each."""
    step = scores.flatten(1).gather(1, parents * scores.shape[2] + words)
    return Beams(
        tokens=torch.cat((_reordered(found.tokens, parents), words[..., None]), dim=2),
        steps=torch.cat((_reordered(found.steps, parents), step[..., None]), dim=2),
        totals=found.totals.gather(1, parents) + step,
    )


def _ranked(found: Beams, alpha: float) -> Captions:
    """Return the captions of each image, the best first."""
    ranks = found.totals / _lengths(found.tokens) ** alpha
    order = ranks.argsort(dim=1, descending=True, stable=True)
    unused = found.totals.gather(1, order).isinf()[..., None]
    tokens, steps = _reordered(found.tokens, order), _reordered(found.steps, order)
    tokens[..., 1:] = tokens[..., 1:].masked_fill(unused, PADDING)
    return Captions(tokens, steps.masked_fill(unused, -torch.inf))


def _reordered(rows: Tensor, beams: Int[Tensor, "image beam"]) -> Tensor:
    return rows.take_along_dim(beams[..., None], dim=1)


def _lengths(tokens: Int[Tensor, "image beam token"]) -> Int[Tensor, "image beam"]:
    """Return how many words each caption has, END among them; BEGIN is none."""
    return (tokens != PADDING).sum(dim=2) - 1
