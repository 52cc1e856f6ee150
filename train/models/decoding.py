"""Decoding captions: greedy, by sampling, and by beam search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ...base.errors import UsageError
from ..data.caption_vocabulary import BEGIN, END
from ..data.vocabulary import PADDING, UNKNOWN
from .captioner import Captioner, select

NEVER = (PADDING, UNKNOWN, BEGIN)  # tokens that are never written
MAX_TOKENS = 20  # of a caption, including END; the field writes no longer ones
DIVERSITY = 0.5  # the cost of a word for each beam of an earlier group that has it


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


@torch.no_grad()
def greedy(
    model: Captioner, memory: Any, *, max_tokens: int = MAX_TOKENS, no_repeat: int = 0
) -> Captions:
    """Return one caption of each image, the most likely word at each position.

    It ends with END or after `max_tokens`; where `no_repeat` is n > 0, no sequence of n words
    occurs twice. Like all decoders, it computes no gradients, except `sample` if asked, and does
    not change the mode of the model, so set that before. Raises UsageError for a rule out of range.
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
    gradients: bool = False,
) -> Captions:
    """Return `samples` captions of each image, each word drawn by `generator`, on its device.

    A word's probability is the softmax of its logit over `temperature`, among the words that may
    follow. With `nucleus` below 1 only the smallest set of most likely words is drawn from that
    together has this probability (Holtzman et al. 2020, section 3.1). With `gradients` the
    log-probabilities have them: in training mode they are then those from which the words were
    drawn, with the same dropout. Raises UsageError for a rule out of range.
    """
    _require(samples >= 1, f"samples must be at least 1; got {samples}")
    _require(temperature > 0, f"temperature must be more than 0; got {temperature}")
    _require(0 < nucleus <= 1, f"nucleus must be more than 0 and at most 1; got {nucleus}")

    def draw(scores: Float32[Tensor, "row word"]) -> Int[Tensor, " row"]:
        probabilities = (scores / temperature).softmax(dim=1)
        if nucleus < 1:
            probabilities = within_nucleus(probabilities, nucleus)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    with torch.set_grad_enabled(gradients):
        return _write(model, memory, draw, each=samples, max_tokens=max_tokens, no_repeat=no_repeat)


def within_nucleus(
    probabilities: Float32[Tensor, "row word"], share: float
) -> Float32[Tensor, "row word"]:
    """Return the probabilities of the most likely words that together have `share`, else zero."""
    ordered, words = probabilities.sort(dim=1, descending=True)
    enough = ordered.cumsum(dim=1) - ordered >= share  # the words before have it already
    return torch.zeros_like(probabilities).scatter_(1, words, ordered.masked_fill(enough, 0.0))


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
        word = choose(allowed(scores.detach(), tokens, no_repeat=no_repeat))
        steps.append(scores.gather(1, word[:, None])[:, 0].masked_fill(ended, 0.0))
        tokens = torch.cat((tokens, word.masked_fill(ended, PADDING)[:, None]), dim=1)
        ended = ended | (word == END)  # not in place: gradients need the old one
    return Captions(
        tokens.unflatten(0, (images, each)), torch.stack(steps, dim=1).unflatten(0, (images, each))
    )


class Beams(NamedTuple):
    """Captions of each image, in groups of beams; the total of an unused beam is -inf."""

    tokens: Int[Tensor, "image group beam token"]
    steps: Float32[Tensor, "image group beam step"]  # log-probabilities
    totals: Float32[Tensor, "image group beam"]  # their sum, less what words cost in the group

    def only(self, used: Bool[Tensor, "image group beam"]) -> "Beams":
        """Return the beams of which only those in `used` stay in use."""
        return self._replace(totals=self.totals.masked_fill(~used, -torch.inf))

    def ranks(self, alpha: float) -> Float32[Tensor, "image group beam"]:
        """Return what the captions of a group are ranked by: the total over length^alpha."""
        return self.totals / _lengths(self.tokens) ** alpha


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
    """Return the best captions found for each image, as many as there are beams, the best first.

    At each position the likeliest `beams` continuations are kept. A caption that ends, or reaches
    `max_tokens`, leaves its beam for a pool, which keeps the best `beams` captions; the unfinished
    captions then continue in all beams. The search ends when none of them can enter the pool any
    more. One beam is greedy decoding.

    Captions are ranked by log-probability over length^alpha, where the length counts words and END;
    alpha 1 is the mean. With `groups`, each has its part of the beams and its own pool, and a word
    costs `diversity` for each beam of an earlier group that has it at the same position (diverse
    beam search, Vijayakumar et al. 2016, with Hamming diversity). A group ranks its captions less
    what their words cost; the final ranking of all captions ignores the costs. Rules are those of
    `greedy`. Raises UsageError where one is out of range.
    """
    require_rules(max_tokens=max_tokens, no_repeat=no_repeat)
    _require(beams >= 1, f"beams must be at least 1; got {beams}")
    _require(alpha >= 0, f"alpha must be at least 0; got {alpha}")
    _require(groups >= 1 and beams % groups == 0, f"groups must divide {beams} beams; got {groups}")
    _require(diversity >= 0, f"diversity must be at least 0; got {diversity}")
    state = model.start(memory)
    size = beams // groups
    current, pool = _start(len(state[0]), groups, size, state[0].device)
    rows = torch.arange(current.totals.numel(), device=state[0].device)  # of all images' beams
    state = select(state, rows // beams)
    first = (rows // size * size).view_as(current.totals)  # row of its group
    for length in range(1, max_tokens + 1):
        logits, state = model.step(memory, state, current.tokens[..., -1].flatten())
        scores = logits.float().log_softmax(dim=1)
        scores = allowed(scores, current.tokens.flatten(0, 2), no_repeat=no_repeat)
        scores = scores.unflatten(0, current.totals.shape)
        totals, parents, words = _choose(current, scores, diversity)
        current = _grow(current, scores, totals, parents, words)
        finished = (words == END) | (length == max_tokens)
        pool = _add(pool, current.only(finished), alpha)
        current = current.only(~finished)
        if not _can_enter(current, pool, alpha, max_tokens):
            break
        state = select(state, (first + parents).flatten())
    return _ranked(pool, alpha)


def _start(images: int, groups: int, size: int, device: torch.device) -> tuple[Beams, Beams]:
    """Return empty captions of which the first one of each group is in use, and an empty pool."""
    pool = Beams(
        tokens=torch.full((images, groups, size, 1), BEGIN, device=device),
        steps=torch.zeros(images, groups, size, 0, device=device),
        totals=torch.full((images, groups, size), -torch.inf, device=device),
    )
    totals = pool.totals.clone()
    totals[..., 0] = 0.0
    return pool._replace(totals=totals), pool


def _choose(
    current: Beams, scores: Float32[Tensor, "image group beam word"], diversity: float
) -> tuple[
    Float32[Tensor, "image group beam"],
    Int[Tensor, "image group beam"],
    Int[Tensor, "image group beam"],
]:
    """Return each beam's new total, the beam of its group that it continues, and its next word."""
    images, groups, size, words = scores.shape
    taken = scores.new_zeros(images, words)  # the number of beams in earlier groups with a word
    chosen = []
    for group in range(groups):
        totals = current.totals[:, group, :, None] + scores[:, group] - diversity * taken[:, None]
        best = totals.flatten(1).topk(size, dim=1)
        following = best.indices % words  # image beam
        chosen.append((best.values, best.indices // words, following))
        taken = taken.scatter_add(1, following, best.values.isfinite().to(taken.dtype))
    totals, parents, following = (torch.stack(parts, dim=1) for parts in zip(*chosen, strict=True))
    return totals, parents, following


def _grow(
    current: Beams,
    scores: Float32[Tensor, "image group beam word"],
    totals: Float32[Tensor, "image group beam"],
    parents: Int[Tensor, "image group beam"],
    words: Int[Tensor, "image group beam"],
) -> Beams:
    """Return the beams with one more word each."""
    step = scores.flatten(2).gather(2, parents * scores.shape[3] + words)
    return Beams(
        tokens=torch.cat((_reordered(current.tokens, parents), words[..., None]), dim=3),
        steps=torch.cat((_reordered(current.steps, parents), step[..., None]), dim=3),
        totals=totals,
    )


def _add(pool: Beams, finished: Beams, alpha: float) -> Beams:
    """Return each group's best captions of the pool and of `finished`, the best first.

    The captions of `finished` have one token more than those of the pool.
    """
    longer = pad(pool.tokens, (0, 1), value=PADDING), pad(pool.steps, (0, 1))
    pairs = zip((*longer, pool.totals), finished, strict=True)
    both = Beams(*(torch.cat(pair, dim=2) for pair in pairs))
    order = both.ranks(alpha).argsort(dim=2, descending=True, stable=True)
    best = order[..., : pool.totals.shape[2]]
    return Beams(
        _reordered(both.tokens, best), _reordered(both.steps, best), both.totals.gather(2, best)
    )


def _can_enter(current: Beams, pool: Beams, alpha: float, max_tokens: int) -> bool:
    """Return whether any unfinished caption may still outrank one in the pool of its group.

    At best all words that follow have probability 1, up to the greatest length.
    """
    highest = current.totals.amax(dim=2) / max_tokens**alpha
    lowest = pool.ranks(alpha)[..., -1]
    return bool((highest > lowest).any())


def _ranked(pool: Beams, alpha: float) -> Captions:
    """Return the captions of each image by their log-probabilities alone, the best first."""
    tokens, unused = pool.tokens.flatten(1, 2), pool.totals.flatten(1).isinf()
    steps = pool.steps.flatten(1, 2).masked_fill(unused[..., None], -torch.inf)
    ranks = steps.sum(dim=2) / _lengths(tokens) ** alpha
    order = ranks.argsort(dim=1, descending=True, stable=True)
    tokens[..., 1:] = tokens[..., 1:].masked_fill(unused[..., None], PADDING)
    return Captions(_reordered(tokens, order), _reordered(steps, order))


def _reordered(rows: Tensor, beams: Int[Tensor, "*image beam"]) -> Tensor:
    return rows.take_along_dim(beams[..., None], dim=-2)


def _lengths(tokens: Int[Tensor, "*beams token"]) -> Int[Tensor, "*beams"]:
    """Return the number of words of each caption, including END but not BEGIN."""
    return (tokens != PADDING).sum(dim=-1) - 1
