"""Beam search against searches written out in plain Python, on random Markov models.

Their probabilities differ by position, since otherwise captions of the same pairs of words tie.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from captioners import Table, TableState, table_memory
from torch import Tensor

from clipfeat.train.data.caption_vocabulary import BEGIN, END, SPECIAL_TOKENS
from clipfeat.train.data.vocabulary import PADDING
from clipfeat.train.models.decoding import Captions, beam_search

A, B, C = range(SPECIAL_TOKENS, SPECIAL_TOKENS + 3)
MODELS, WORDS, LONGEST = 300, 9, 8  # of the random models; words besides END


class Found(NamedTuple):
    words: tuple[int, ...]
    total: float  # log-probability
    cost: float = 0.0  # of words that earlier groups have

    def rank(self, alpha: float) -> float:
        return (self.total - self.cost) / len(self.words) ** alpha


Chances = Sequence[Sequence[Sequence[float]]]  # log-probabilities by position, last word, word


class Tables(Table):
    """Tables for each image; a state is the number of its image, and the position."""

    def __init__(self, tables: Tensor) -> None:
        super().__init__({}, tokens=tables.shape[2])
        self.tables = tables

    def start(self, memory: TableState) -> TableState:
        image = torch.arange(len(self.tables))
        return TableState(torch.stack((image, torch.zeros_like(image)), dim=1))

    def step(
        self, memory: TableState, state: TableState, last: Tensor
    ) -> tuple[Tensor, TableState]:
        image, position = state.nothing.unbind(dim=1)
        following = torch.stack((image, position + 1), dim=1)
        return self.tables[image, position, last], TableState(following)


def random_tables(models: int, words: int, *, longest: int = LONGEST) -> Tensor:
    """Return log-probabilities of END and words, by model, position and last token.

    Some models are nearly certain of each word, others of none.
    """
    random = torch.Generator().manual_seed(0)
    tokens = SPECIAL_TOKENS + words
    sharpness = 0.5 + 2 * torch.rand(models, 1, 1, 1, generator=random)
    logits = torch.randn(models, longest, tokens, tokens, generator=random) * sharpness
    logits[..., [token for token in range(SPECIAL_TOKENS) if token != END]] = -torch.inf
    return logits.log_softmax(dim=3)


def continuations(caption: Found, chances: Chances) -> list[Found]:
    row = chances[len(caption.words)][caption.words[-1] if caption.words else BEGIN]
    real = [END, *range(SPECIAL_TOKENS, len(row))]
    return [Found((*caption.words, w), caption.total + row[w], caption.cost) for w in real]


def ended(caption: Found) -> bool:
    return caption.words[-1:] == (END,)


def with_pool(
    chances: Chances, *, beams: int, alpha: float, groups: int = 1, diversity: float = 0.0
) -> list[Found]:
    """Return the captions of each group by the published bookkeeping.

    At each position the best continuations are kept; those that are complete are put aside, and
    are not continued. Every group searches to the end.
    """
    size = beams // groups
    beams_of = [[Found((), 0.0)] for _ in range(groups)]
    pools: list[list[Found]] = [[] for _ in range(groups)]
    for length in range(1, LONGEST + 1):
        taken: list[int] = []
        for group in range(groups):
            candidates = [
                c._replace(cost=c.cost + diversity * taken.count(c.words[-1]))
                for beam in beams_of[group]
                for c in continuations(beam, chances)
            ]
            best = sorted(candidates, key=lambda c: c.total - c.cost, reverse=True)[:size]
            taken += [caption.words[-1] for caption in best]
            pools[group] += [c for c in best if ended(c) or length == LONGEST]
            beams_of[group] = [c for c in best if not ended(c)]
    pools = [sorted(pool, key=lambda c: c.rank(alpha), reverse=True)[:size] for pool in pools]
    found = [caption._replace(cost=0.0) for pool in pools for caption in pool]
    return sorted(found, key=lambda c: c.rank(alpha), reverse=True)


def without_pool(chances: Chances, *, beams: int) -> list[Found]:
    """Return the captions where a complete one keeps its beam until others outrank it."""
    kept = [Found((), 0.0)]
    for _ in range(LONGEST):
        parts = [[c] if ended(c) else continuations(c, chances) for c in kept]
        kept = sorted(itertools.chain(*parts), key=lambda c: c.total, reverse=True)[:beams]
    return kept


def decoded(found: Captions, image: int) -> list[Found]:
    captions = zip(found.tokens[image].tolist(), found.totals[image].tolist(), strict=True)
    return [
        Found(tuple(token for token in tokens[1:] if token != PADDING), total)
        for tokens, total in captions
        if total > -torch.inf
    ]


def require_equal(found: Captions, expected: Sequence[list[Found]]) -> None:
    for image, captions in enumerate(expected):
        mine = decoded(found, image)
        assert [c.words for c in mine] == [c.words for c in captions]
        assert [c.total for c in mine] == pytest.approx([c.total for c in captions], rel=1e-4)


def search(tables: Tensor, **options: Any) -> Captions:
    model = Tables(tables)
    memory = table_memory(model, len(tables))
    return beam_search(model, memory, max_tokens=tables.shape[1], **options)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_captions_are_those_of_the_published_bookkeeping(alpha: float) -> None:
    """The search ends as soon as nothing can change, and finds what the whole search finds."""
    tables = random_tables(MODELS, WORDS)
    expected = [with_pool(t, beams=5, alpha=alpha) for t in tables.tolist()]
    require_equal(search(tables, beams=5, alpha=alpha), expected)


def test_groups_have_pools_of_their_own() -> None:
    tables = random_tables(MODELS // 3, WORDS)
    options = {"beams": 6, "groups": 3, "diversity": 0.7}
    expected = [with_pool(t, alpha=0.5, **options) for t in tables.tolist()]
    require_equal(search(tables, alpha=0.5, **options), expected)


def test_a_pool_is_better_than_captions_that_keep_their_beams() -> None:
    """As a mean over models; the best of all captions bounds both."""
    tables = random_tables(MODELS, WORDS)
    found = search(tables, beams=5).totals[:, 0]
    old = torch.tensor([without_pool(t, beams=5)[0].total for t in tables.tolist()])
    assert (found - old).mean() > 0
    assert (found < old - 1e-4).sum() < (found > old + 1e-4).sum()
    assert (found > best_totals(tables) + 1e-4).sum() == 0


def best_totals(tables: Tensor) -> Tensor:
    """Return the log-probability of each model's best caption, by Viterbi's algorithm."""
    words = slice(SPECIAL_TOKENS, None)
    first, *others = tables.unbind(dim=1)
    best = first[:, BEGIN, END]
    unfinished = first[:, BEGIN, words]  # the best captions that end with each word
    for table in others:
        best = torch.maximum(best, (unfinished + table[:, words, END]).amax(dim=1))
        unfinished = (unfinished[:, :, None] + table[:, words, words]).amax(dim=1)
    return torch.maximum(best, unfinished.amax(dim=1))


def test_with_enough_beams_nothing_is_missed() -> None:
    """Each of 2 ** 4 captions of 4 words may be continued by 2 words or end."""
    tables = random_tables(MODELS, 2, longest=5)
    found = search(tables, beams=3 * 2**4).totals[:, 0]
    torch.testing.assert_close(found, best_totals(tables))
    assert (search(tables, beams=1).totals[:, 0] < found - 1e-4).any()


def test_a_finished_caption_is_not_lost_to_captions_that_start_better() -> None:
    """Nothing has 0.3; a b and a c have 0.364 and 0.336 until they end, of which 0.6 is left."""
    after_a = {B: 0.52, C: 0.48}
    table = {BEGIN: {END: 0.3, A: 0.7}, A: after_a, B: {END: 0.6, A: 0.4}, C: {END: 0.6, A: 0.4}}
    model = Table(table, tokens=SPECIAL_TOKENS + 3)
    found = beam_search(model, table_memory(model), beams=2, max_tokens=4)
    assert [c.words for c in decoded(found, 0)] == [(END,), (A, B, END)]
    torch.testing.assert_close(found.totals, torch.tensor([[0.3, 0.2184]]).log())


@pytest.mark.parametrize(
    ("beams", "alpha", "steps"),
    [
        (1, 0.0, 1),  # the empty caption, which is the likeliest
        (2, 0.0, 2),  # a, with 0.45, is the second; a a has 0.05 so far
        # By the mean up to 8 tokens: a a has ln 0.05 / 8 = -0.37, a a a ln 0.005 / 8 = -0.66, four
        # ln 0.0005 / 8 = -0.95; the second of the pool is the empty caption, with ln 0.51 = -0.67.
        (2, 1.0, 4),
    ],
)
def test_the_search_ends_when_no_caption_can_enter_the_pool(
    beams: int, alpha: float, steps: int
) -> None:
    table = {BEGIN: {END: 0.51, A: 0.49}, A: {A: 0.1, END: 0.9}}
    model = Table(table, tokens=SPECIAL_TOKENS + 3)
    found = beam_search(model, table_memory(model), beams=beams, alpha=alpha, max_tokens=8)
    assert found.log_probabilities.shape[2] == steps
