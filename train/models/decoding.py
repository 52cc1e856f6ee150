"""Decoding captions: greedy, by sampling, and by beam search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...base.errors import UsageError
from ..data.caption_vocabulary import BEGIN, END
from ..data.vocabulary import PADDING, UNKNOWN
from .captioner import Captioner, select

NEVER = (PADDING, UNKNOWN, BEGIN)  # tokens that are never written
MAX_TOKENS = 20  # of a caption, including END; the field writes no longer ones
DIVERSITY = 0.5  # the cost of a word for each earlier group of beams that has it


def require_rules(*, max_tokens: int, no_repeat: int) -> None:
    """Raise UsageError where the rules that every decoder has are out of range."""
    _require(max_tokens >= 1, f"max_tokens must be at least 1; got {max_tokens}")
    _require(no_repeat >= 0, f"no_repeat is a number of words, 0 for no rule; got {no_repeat}")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise UsageError(message, code="E-DECODING-RANGE")


def allowed(
    log_probabilities: Float32[Tensor, "row word"],
    tokens: Int[Tensor, "row token"],
    *,
    no_repeat: int,
) -> Float32[Tensor, "row word"]:
    """Return the log-probabilities with -inf for every word that may not follow `tokens`.

    UNKNOWN is never written. Where `no_repeat` is n > 0, no sequence of n words occurs twice.
    """
    barred = torch.zeros_like(log_probabilities, dtype=torch.bool)
    barred[:, list(NEVER)] = True
    if 0 < no_repeat < tokens.shape[1]:
        grams = tokens.unfold(1, no_repeat, 1)  # row position n
        ending = tokens[:, tokens.shape[1] - no_repeat + 1 :]  # what the next word would complete
        matches = (grams[:, :, :-1] == ending[:, None]).all(dim=-1)
        barred.scatter_(1, torch.where(matches, grams[:, :, -1], PADDING), value=True)
    return log_probabilities.masked_fill(barred, -torch.inf)


class Captions(NamedTuple):
    """Captions of each image: BEGIN, words, END, padding; without END where they were cut off.

    A caption's log-probability is that of its words and END under the model alone, without the
    rules of a decoder. -inf marks positions for which there was no caption.
    """

    tokens: Int[Tensor, "image caption token"]
    log_probabilities: Float32[Tensor, "image caption step"]  # of tokens[:, :, 1:]; 0 in padding

    @property
    def totals(self) -> Float32[Tensor, "image caption"]:
        """The log-probability of each caption as a whole."""
        return self.log_probabilities.sum(dim=-1)


def log_probabilities(
    logits: Float[Tensor, "caption step word"], tokens: Int[Tensor, "caption token"]
) -> Float32[Tensor, "caption step"]:
    """Return the log-probability of each token after the first, with gradients; 0 in padding.

    To learn from what a decoder returned, score it again: `tokens = captions.tokens.flatten(0, 1)`
    and `logits = model.logits(memory, tokens[:, :-1])`.
    """
    # `ignore_index` gives 0 there, without a gradient.
    return -cross_entropy(
        logits.float().transpose(1, 2), tokens[:, 1:], ignore_index=PADDING, reduction="none"
    )


def greedy(
    model: Captioner, memory: Any, *, max_tokens: int = MAX_TOKENS, no_repeat: int = 0
) -> Captions:
    """Return one caption of each image, the most likely word at each position.

    It ends with END or after `max_tokens`; where `no_repeat` is n > 0, no sequence of n words
    occurs twice. Like all decoders, it computes no gradients, and does not change the mode of the
    model, so set that to evaluation before. Raises UsageError for a rule out of range.
    """

    def most_likely(scores: Float32[Tensor, "row word"]) -> Int[Tensor, " row"]:
        return scores.argmax(dim=1)

    return _write(model, memory, most_likely, each=1, max_tokens=max_tokens, no_repeat=no_repeat)


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
    follow. With `nucleus` below 1 only the smallest set of most likely words is drawn from that
    together has this probability (Holtzman et al. 2020, section 3.1). Computes no gradients; to
    learn from the captions, score them with `log_probabilities`. Raises UsageError for a rule out
    of range.
    """
    _require(samples >= 1, f"samples must be at least 1; got {samples}")
    _require(temperature > 0, f"temperature must be more than 0; got {temperature}")
    _require(0 < nucleus <= 1, f"nucleus must be more than 0 and at most 1; got {nucleus}")

    def draw(scores: Float32[Tensor, "row word"]) -> Int[Tensor, " row"]:
        probabilities = (scores / temperature).softmax(dim=1)
        if nucleus < 1:
            probabilities = within_nucleus(probabilities, nucleus)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    return _write(model, memory, draw, each=samples, max_tokens=max_tokens, no_repeat=no_repeat)


def within_nucleus(
    probabilities: Float32[Tensor, "row word"], share: float
) -> Float32[Tensor, "row word"]:
    """Return the probabilities of the most likely words that together have `share`, else zero."""
    ordered, words = probabilities.sort(dim=1, descending=True)
    enough = ordered.cumsum(dim=1) - ordered >= share  # the words before have it already
    return torch.zeros_like(probabilities).scatter_(1, words, ordered.masked_fill(enough, 0.0))


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
    """Return `each` captions per image; `choose` takes the scores of the words that may follow."""
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


class Beams(NamedTuple):
    """Unfinished captions, beam by beam for each image; the total of an unused beam is -inf."""

    tokens: Int[Tensor, "image beam token"]
    steps: Float32[Tensor, "image beam step"]  # log-probabilities
    totals: Float32[Tensor, "image beam"]

    @property
    def ended(self) -> Bool[Tensor, "image beam"]:
        """Which captions are complete."""
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

    Captions are ranked by log-probability over length^alpha (Wu et al. 2016, section 7), where the
    length counts words and END. A complete caption keeps its beam as long as no other outranks it,
    and one beam is greedy decoding. With `groups`, each has its part of the beams, and a word
    costs `diversity` for each time that an earlier group has it at the same position (diverse beam
    search, Vijayakumar et al. 2016, with Hamming diversity); the final ranking ignores this cost.
    Rules are those of `greedy`. Raises UsageError where one is out of range.
    """
    require_rules(max_tokens=max_tokens, no_repeat=no_repeat)
    _require(beams >= 1, f"beams must be at least 1; got {beams}")
    _require(alpha >= 0, f"alpha must be at least 0; got {alpha}")
    _require(groups >= 1 and beams % groups == 0, f"groups must divide {beams} beams; got {groups}")
    _require(diversity >= 0, f"diversity must be at least 0; got {diversity}")
    state = model.start(memory)
    current = _start(len(state[0]), beams, groups, state[0].device)
    first = torch.arange(current.totals.numel(), device=state[0].device)  # of all images' beams
    state = select(state, first // beams)
    for length in range(1, max_tokens + 1):
        logits, state = model.step(memory, state, current.tokens[..., -1].flatten())
        scores = logits.float().log_softmax(dim=1)
        scores = allowed(scores, current.tokens.flatten(0, 1), no_repeat=no_repeat)
        scores = _keep_ended(scores.unflatten(0, current.totals.shape), current.ended)
        parents, words = _choose(current, scores, length, alpha, groups, diversity)
        current = _grow(current, scores, parents, words)
        if bool((current.ended | current.totals.isinf()).all()):
            break
        state = select(state, (first.view_as(parents) // beams * beams + parents).flatten())
    return _ranked(current, alpha)


def _start(images: int, beams: int, groups: int, device: torch.device) -> Beams:
    """Return empty captions of which the first one of each group is in use."""
    totals = torch.full((images, groups, beams // groups), -torch.inf, device=device)
    totals[:, :, 0] = 0.0
    return Beams(
        tokens=torch.full((images, beams, 1), BEGIN, device=device),
        steps=torch.zeros(images, beams, 0, device=device),
        totals=totals.flatten(1),
    )


def _keep_ended(
    scores: Float32[Tensor, "image beam word"], ended: Bool[Tensor, "image beam"]
) -> Float32[Tensor, "image beam word"]:
    """Return the scores such that only padding, at no cost, follows a caption's end."""
    scores = scores.masked_fill(ended[..., None], -torch.inf)
    scores[..., PADDING] = scores[..., PADDING].masked_fill(ended, 0.0)
    return scores


def _choose(
    current: Beams,
    scores: Float32[Tensor, "image beam word"],
    length: int,
    alpha: float,
    groups: int,
    diversity: float,
) -> tuple[Int[Tensor, "image beam"], Int[Tensor, "image beam"]]:
    """Return for each beam the beam that it continues, of the same group, and its next word.

    `length` is that of continued captions, including the next word.
    """
    images, beams, words = scores.shape
    size = beams // groups
    lengths = torch.where(current.ended, _lengths(current.tokens), length)
    taken = scores.new_zeros(images, words)  # the number of earlier groups that have a word
    chosen = []
    for start in range(0, beams, size):
        group = slice(start, start + size)
        totals = current.totals[:, group, None] + scores[:, group] - diversity * taken[:, None]
        ranks = totals / lengths[:, group, None] ** alpha
        best = ranks.flatten(1).topk(size, dim=1).indices  # image size
        chosen.append((start + best // words, best % words))
        taken = taken.scatter_add(1, best % words, torch.ones_like(best, dtype=taken.dtype))
        taken[:, PADDING] = 0.0  # not a word
    parents, following = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
    return parents, following


def _grow(
    current: Beams,
    scores: Float32[Tensor, "image beam word"],
    parents: Int[Tensor, "image beam"],
    words: Int[Tensor, "image beam"],
) -> Beams:
    """Return the beams with one more word each."""
    step = scores.flatten(1).gather(1, parents * scores.shape[2] + words)
    return Beams(
        tokens=torch.cat((_reordered(current.tokens, parents), words[..., None]), dim=2),
        steps=torch.cat((_reordered(current.steps, parents), step[..., None]), dim=2),
        totals=current.totals.gather(1, parents) + step,
    )


def _ranked(current: Beams, alpha: float) -> Captions:
    """Return the captions of each image, the best first."""
    ranks = current.totals / _lengths(current.tokens) ** alpha
    order = ranks.argsort(dim=1, descending=True, stable=True)
    unused = current.totals.gather(1, order).isinf()[..., None]
    tokens, steps = _reordered(current.tokens, order), _reordered(current.steps, order)
    tokens[..., 1:] = tokens[..., 1:].masked_fill(unused, PADDING)
    return Captions(tokens, steps.masked_fill(unused, -torch.inf))


def _reordered(rows: Tensor, beams: Int[Tensor, "image beam"]) -> Tensor:
    return rows.take_along_dim(beams[..., None], dim=1)


def _lengths(tokens: Int[Tensor, "image beam token"]) -> Int[Tensor, "image beam"]:
    """Return the number of words of each caption, including END but not BEGIN."""
    return (tokens != PADDING).sum(dim=2) - 1
