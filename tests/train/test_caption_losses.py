"""What captioners learn from, on numbers small enough to work out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from captioners import TINY, Table, TableState, captioner, grids
from torch import Tensor

from clipfeat.train.data.caption_vocabulary import CaptionWordVocabulary
from clipfeat.train.engine import seed_update
from clipfeat.train.metrics.cider import TextCider
from clipfeat.train.models.decoding import Captions, log_probabilities
from clipfeat.train.tasks.captioning.examples import CaptionBatch, ImageBatch
from clipfeat.train.tasks.captioning.losses import (
    SelfCritical,
    advantages,
    caption_loss,
    policy_loss,
)
from clipfeat.train.tasks.settings import CaptionSettings, SelfCriticalSettings

A, B, BEGIN, END = 4, 5, 2, 3


def test_advantages_over_the_likeliest_caption_and_over_the_other_samples() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    over_greedy = advantages(rewards, np.array([[2.0], [4.0]]))
    assert over_greedy.tolist() == [[-1, 0, 4], [-1, -1, -1]]
    # others of 1: (2 + 6) / 2 = 4; of 2: 3.5; of 6: 1.5
    assert advantages(rewards, None).tolist() == [[-3, -1.5, 4.5], [0, 0, 0]]


def test_the_policy_loss_is_a_mean_over_words_and_ends() -> None:
    tokens = torch.tensor([[BEGIN, A, END, 0], [BEGIN, A, B, END]])
    logits = torch.full((2, 3, 6), -1e9)
    for caption, chances in enumerate(({A: 0.5}, {A: 0.25, B: 0.5})):
        for step in range(3):
            logits[caption, step, END] = math.log(0.25)
            for token, chance in chances.items():
                logits[caption, step, token] = math.log(chance)
    logits[0, :, B] = math.log(0.25)
    captions = Captions(tokens[:, None], log_probabilities(logits, tokens)[:, None])
    loss = policy_loss(captions, torch.tensor([[2.0], [-1.0]], dtype=torch.float64))
    # first: ln 0.5 + ln 0.25 = -3 ln 2; second: ln 0.25 + ln 0.5 + ln 0.25 = -5 ln 2
    assert float(loss) == pytest.approx((2 * 3 - 5) * math.log(2) / 5, rel=1e-5)


class Fixed(Table):
    """A captioner of given logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__({}, tokens=6)
        self.fixed = logits

    def logits(self, memory: TableState, tokens: Tensor) -> Tensor:
        assert tokens.tolist() == [[BEGIN, A, B], [BEGIN, A, END]]
        return self.fixed


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_captions_is_a_mean_over_words_and_ends(smoothing: float) -> None:
    """Torch's own on each word by itself; padding counts nothing, the end does."""
    tokens = torch.tensor([[BEGIN, A, B, END], [BEGIN, A, END, 0]])
    logits = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2).long()
    batch = CaptionBatch(*image, torch.tensor([0, 0]), tokens)
    places = [(0, 0, A), (0, 1, B), (0, 2, END), (1, 0, A), (1, 1, END)]
    each = []
    for caption, step, word in places:
        scores = logits[caption, step].log_softmax(dim=0)
        each.append(-(1 - smoothing) * scores[word] - smoothing * scores.mean())
    found = caption_loss(Fixed(logits), batch, smoothing=smoothing)
    assert float(found) == pytest.approx(float(sum(each)) / 5, rel=1e-5)


WORDS = CaptionWordVocabulary(("a", "b"))
# The likeliest caption is "a", of a half; "b" has a quarter, no word at all another one.
CHANCES = {BEGIN: {A: 0.5, B: 0.25, END: 0.25}, A: {END: 1.0}, B: {END: 1.0}}


class Learning(Table):
    """The table, as a captioner that gradients reach and that knows which mode it is in."""

    def __init__(self) -> None:
        super().__init__(CHANCES, tokens=6)
        self.weight = torch.nn.Parameter(self._logits.clone())
        self.trained_in: list[bool] = []

    def logits(self, memory: TableState, tokens: Tensor) -> Tensor:
        self.trained_in.append(self.training)
        return self.weight[tokens]

    def step(
        self, memory: TableState, state: TableState, last: Tensor
    ) -> tuple[Tensor, TableState]:
        if torch.is_grad_enabled():
            self.trained_in.append(self.training)
            return self.weight[last], state
        assert not self.training
        return super().step(memory, state, last)


def critic(references: Sequence[Sequence[str]], **scst: object) -> SelfCritical:
    settings = CaptionSettings(scst=SelfCriticalSettings(**scst))  # type: ignore[arg-type]
    cider = TextCider(references, end_is_word=True)
    return SelfCritical(cider, WORDS, settings, Accelerator(cpu=True))


def images(*numbers: int) -> ImageBatch:
    count = len(numbers)
    return ImageBatch(
        torch.zeros(count, 1, 1),
        torch.ones(count, 1, dtype=torch.bool),
        torch.ones(count, 2, dtype=torch.int64),
        torch.tensor(numbers),
    )


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
@pytest.mark.parametrize("dropout", [False, True])
def test_captions_that_are_better_than_the_baseline_become_likelier(
    baseline: str, *, dropout: bool
) -> None:
    """The second image's reference is "b", which has more than the likeliest caption's nothing."""
    model = Learning().train()
    learner = critic([["a"], ["b"]], samples=64, baseline=baseline, dropout=dropout)
    seed_update(0, 1, 0)
    learner.loss(model, images(1)).backward()
    gradient = model.weight.grad
    assert gradient is not None
    assert gradient[BEGIN, B] < 0 < gradient[BEGIN, A]
    # Without dropout in one pass over whole captions, with it word by word: "b" and its end.
    assert model.trained_in == ([True, True] if dropout else [False])


class Absentminded(Learning):
    """A captioner that forgets in training: each time it is read, "a" or "b" has no chance."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[int] = []

    def step(
        self, memory: TableState, state: TableState, last: Tensor
    ) -> tuple[Tensor, TableState]:
        logits, state = super().step(memory, state, last)
        if not self.training:
            return logits, state
        self.forgotten.append(A + int(torch.randint(2, ())))
        forgotten = torch.arange(6) == self.forgotten[-1]
        return logits.masked_fill(forgotten, -torch.inf), state


def test_captions_are_learned_from_with_the_dropout_that_they_were_drawn_with() -> None:
    """The greedy caption "a" is that of a model that forgets nothing.

    Without "a" the caption is "b" by a half, otherwise empty; without "b" it is "a" by two thirds.
    With the reference "b" only the caption "b" has a reward, of 10 * (1 + 1 + 0 + 0) / 4 = 5: its
    words are "b" and its end.
    """
    forgotten = set()
    for update in range(8):
        model = Absentminded().train()
        seed_update(0, update, 0)
        loss = critic([["a"], ["b"]], samples=64, dropout=True).loss(model, images(1))
        loss.backward()
        gradient = model.weight.grad
        assert gradient is not None
        first = model.forgotten[0]
        forgotten.add(first)
        assert gradient[BEGIN, first] == 0
        if first == B:  # no caption is better than the greedy one
            assert float(loss.detach()) == 0
            continue
        # Of n captions "b" and 64 - n empty ones: n * 5 * ln 2 over n * 2 + (64 - n) words.
        counts = [n * 5 * math.log(2) / (64 + n) for n in range(65)]
        n = min(range(65), key=lambda n: abs(counts[n] - float(loss.detach())))
        assert float(loss.detach()) == pytest.approx(counts[n], rel=1e-5)
        assert 16 < n < 48
        # The derivative of ln p("b") = ln 1/2 by the logit of "b" is 1/2.
        assert float(gradient[BEGIN, B]) == pytest.approx(-n * 5 / 2 / (64 + n), rel=1e-5)
    assert forgotten == {A, B}


@pytest.mark.parametrize("name", TINY)
def test_without_dropout_in_the_model_both_ways_are_alike(name: str) -> None:
    """One draws and learns word by word, the other learns from whole captions."""
    gradients = []
    for dropout in (False, True):
        model = captioner(name, words=2)
        seed_update(0, 1, 0)
        batch = ImageBatch(**grids()._asdict(), images=torch.tensor([0, 1]))
        loss = critic([["a b"], ["b"]], samples=8, dropout=dropout).loss(model, batch)
        loss.backward()
        assert model.training == dropout
        gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
    for whole, by_word in zip(*gradients, strict=True):
        assert whole is not None
        assert by_word is not None
        torch.testing.assert_close(by_word, whole, rtol=1e-4, atol=1e-6)


def test_captions_that_are_as_good_as_the_likeliest_teach_nothing() -> None:
    model = Learning()
    certain = {BEGIN: {A: 1.0}, A: {END: 1.0}}
    model._logits.copy_(Table(certain, tokens=6)._logits)
    learner = critic([["a"], ["b"]], samples=4)
    loss = learner.loss(model, images(0, 1))
    assert float(loss.detach()) == 0


def test_random_numbers_follow_from_the_update() -> None:
    learner = critic([["a"], ["b"]], samples=16)

    def loss(seed: int, update: int, process: int) -> float:
        seed_update(seed, update, process)
        return float(learner.loss(Learning(), images(0, 1)).detach())

    first = loss(0, 3, 0)
    torch.rand(7)  # whatever was drawn before
    assert loss(0, 3, 0) == first
    assert len({first, loss(0, 4, 0), loss(0, 3, 1), loss(1, 3, 0)}) > 1
    seed_update(0, 3, 0)
    parts = [float(learner.loss(Learning(), images(0, 1)).detach()) for _ in range(4)]
    assert len(set(parts)) > 1  # the parts of an update draw different numbers


@pytest.mark.parametrize("name", TINY)
def test_dropout_follows_from_the_update(name: str) -> None:
    model = captioner(name, words=2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    learner = critic([["a b"], ["b"]], samples=8, dropout=True)
    batch = ImageBatch(**grids()._asdict(), images=torch.tensor([0, 1]))

    def loss(update: int) -> float:
        seed_update(0, update, 0)
        return float(learner.loss(model, batch).detach())

    first = loss(3)
    torch.rand(7)  # whatever was drawn before
    assert loss(3) == first
    assert len({first, loss(4), loss(5)}) == 3


def test_the_end_of_a_caption_is_a_word_of_the_reward() -> None:
    cider = TextCider([["a b"], ["b"]], end_is_word=True)
    whole, cut = cider.scores(["a b", "a b"], [0, 0], ended=[True, False])
    assert cut < whole


def test_texts_are_scored_as_the_published_scorer_does() -> None:
    """pycocoevalcap's own, on the same words; words of no reference are told apart."""
    from pycocoevalcap.cider.cider import Cider

    references = [
        ["a red cat sat on a mat", "the cat is red"],
        ["two dogs run", "dogs run in a field", "two brown dogs"],
        ["a bus on a street"],
    ]
    said = ["a red cat on the moon", "two two cats qua qui qua", "a bus on a street in town"]
    expected, each = Cider().compute_score(
        dict(enumerate(references)), {n: [text] for n, text in enumerate(said)}
    )
    cider = TextCider(references, end_is_word=False)
    found = cider.scores(said, range(3), ended=[True, False, True])
    assert found.tolist() == pytest.approx(each.tolist())
    assert found.mean() == pytest.approx(expected)
