"""Decoding against enumeration, against tables computed by hand, and its rules."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captioners import TINY, WORDS, Table, alone, captioner, grids, table_memory
from torch import Tensor

from clipfeat.base.errors import UsageError
from clipfeat.train.data.caption_vocabulary import BEGIN, END, SPECIAL_TOKENS
from clipfeat.train.data.vocabulary import PADDING, UNKNOWN
from clipfeat.train.models.captioner import Captioner
from clipfeat.train.models.decoding import (
    Captions,
    beam_search,
    greedy,
    log_probabilities,
    sample,
    within_nucleus,
)

A, B, C = range(SPECIAL_TOKENS, SPECIAL_TOKENS + WORDS)
every_model = pytest.mark.parametrize("name", TINY)
Decode = Callable[..., Captions]
DECODERS: dict[str, Decode] = {
    "greedy": greedy,
    "beams": lambda model, memory, **rules: beam_search(model, memory, beams=3, **rules),
    "groups": lambda model, memory, **rules: beam_search(model, memory, beams=4, groups=2, **rules),
    "samples": lambda model, memory, **rules: sample(
        model, memory, samples=6, generator=seeded(), **rules
    ),
}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_captions(most: int) -> list[tuple[int, ...]]:
    """Return every caption of at most `most` tokens: ended, or of `most` words and cut off."""
    words = [list(itertools.product((A, B, C), repeat=length)) for length in range(most + 1)]
    ended = [(*caption, END) for length in range(most) for caption in words[length]]
    return [*ended, *words[most]]


def score(model: Captioner, memory: Any, caption: tuple[int, ...]) -> list[float]:
    """Return the log-probability of a caption for each image, by the whole softmax."""
    tokens = torch.tensor([[BEGIN, *caption]] * 2)
    chances = model.logits(memory, tokens).double().softmax(dim=2)
    places = range(len(caption))
    return [
        sum(math.log(chances[image, place, caption[place]].item()) for place in places)
        for image in range(2)
    ]


def written(tokens: Tensor) -> tuple[int, ...]:
    """Return a caption of a decoder without BEGIN and padding."""
    first, *rest = tokens.tolist()
    assert first == BEGIN
    return tuple(token for token in rest if token != PADDING)


@every_model
@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
def test_a_beam_for_every_caption_ranks_them_all(name: str, alpha: float) -> None:
    """Of at most 4 tokens there are 1 + 3 + 9 + 27 captions that end, and 81 cut off."""
    model = captioner(name)
    memory = model.encode(grids())
    captions = all_captions(4)
    assert len(captions) == 121
    scores = {caption: score(model, memory, caption) for caption in captions}
    found = beam_search(model, memory, beams=123, alpha=alpha, max_tokens=4)
    for image in range(2):
        ranked = sorted(captions, key=lambda c: scores[c][image] / len(c) ** alpha, reverse=True)
        assert [written(tokens) for tokens in found.tokens[image, :121]] == ranked
        expected = torch.tensor([scores[caption][image] for caption in ranked])
        torch.testing.assert_close(found.totals[image, :121], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.totals[:, 121:], torch.full((2, 2), -torch.inf))
    assert found.tokens[:, 121:, 1:].abs().max() == PADDING


@every_model
@pytest.mark.parametrize("no_repeat", [0, 1, 2])
def test_one_beam_is_greedy(name: str, no_repeat: int) -> None:
    model = captioner(name, words=30)
    memory = model.encode(grids())
    expected = greedy(model, memory, no_repeat=no_repeat)
    for alpha in (0.0, 1.0):
        found = beam_search(model, memory, beams=1, alpha=alpha, no_repeat=no_repeat)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.log_probabilities, expected.log_probabilities)


@every_model
def test_greedy_takes_the_likeliest_word_each_time(name: str) -> None:
    model = captioner(name, words=30)
    memory = model.encode(grids())
    found = greedy(model, memory, max_tokens=7).tokens[:, 0]
    logits = model.logits(memory, found[:, :-1])
    logits[..., [PADDING, UNKNOWN, BEGIN]] = -torch.inf
    real = found[:, 1:] != PADDING
    assert torch.equal(logits.argmax(dim=2)[real], found[:, 1:][real])


def test_beams_by_hand() -> None:
    """a is likelier than b, but b a (0.4 x 0.9) than a a (0.6 x 0.5): greedy is led astray."""
    table = {BEGIN: {A: 0.6, B: 0.4}, A: {A: 0.5, C: 0.25, END: 0.25}, B: {A: 0.9, END: 0.1}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    memory = table_memory(model)
    assert greedy(model, memory, max_tokens=2).tokens.tolist() == [[[BEGIN, A, A]]]
    found = beam_search(model, memory, beams=2, max_tokens=2)
    assert found.tokens.tolist() == [[[BEGIN, B, A], [BEGIN, A, A]]]
    expected = torch.tensor([[[0.4, 0.9], [0.6, 0.5]]]).log()
    torch.testing.assert_close(found.log_probabilities, expected)


def test_length_counts_by_alpha() -> None:
    """Nothing: 0.4 in 1 token; a: 0.6 x 0.6 = 0.36 in 2, of which the root is 0.6."""
    table = {BEGIN: {END: 0.4, A: 0.6}, A: {END: 0.6, B: 0.4}, B: {END: 1.0}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    memory = table_memory(model)
    plain = beam_search(model, memory, beams=2, max_tokens=5)
    assert plain.tokens.tolist() == [[[BEGIN, END, PADDING], [BEGIN, A, END]]]
    expected = torch.tensor([[0.4, 0.36]]).log()
    torch.testing.assert_close(plain.totals, expected)
    by_mean = beam_search(model, memory, beams=2, alpha=1.0, max_tokens=5)
    # a b is there too, 0.6 x 0.4 x 1 in 3 tokens: the cube root of 0.24 is 0.62.
    assert [written(tokens) for tokens in by_mean.tokens[0]] == [(A, B, END), (A, END)]


def test_a_group_pays_for_the_words_of_earlier_groups() -> None:
    """Here b overtakes a where a costs more than ln(0.5 / 0.3) = 0.51, and c later."""
    after = {word: {END: 1.0} for word in (A, B, C)}
    model = Table({BEGIN: {A: 0.5, B: 0.3, C: 0.2}, **after}, tokens=SPECIAL_TOKENS + WORDS)
    memory = table_memory(model)

    def first_words(groups: int, diversity: float) -> list[int]:
        found = beam_search(
            model, memory, beams=groups, groups=groups, diversity=diversity, max_tokens=2
        )
        return found.tokens[0, :, 1].tolist()

    assert first_words(2, 0.5) == [A, A]
    assert first_words(2, 0.52) == [A, B]
    # The third group: a and b cost 0.52 each, ln 0.5 - 0.52 > ln 0.2 = -1.61.
    assert first_words(3, 0.52) == [A, A, B]
    # At 2 per word a is -2.69, b -3.20, c -1.61.
    assert first_words(3, 2.0) == [A, B, C]


def test_a_penalty_decides_and_is_not_part_of_the_score() -> None:
    after = {word: {END: 1.0} for word in (A, B, C)}
    model = Table({BEGIN: {A: 0.5, B: 0.3, C: 0.2}, **after}, tokens=SPECIAL_TOKENS + WORDS)
    found = beam_search(model, table_memory(model), beams=3, groups=3, diversity=2.0)
    torch.testing.assert_close(found.totals, torch.tensor([[0.5, 0.3, 0.2]]).log())


def test_a_caption_that_has_ended_pays_no_more() -> None:
    """At 5 a word the empty caption costs 5 in the second group, and stays ahead there.

    The first group has a b with 0.16 and a a with 0.124 at the second word, so that in the second
    group a c, with 0.116, costs 5 and the others cost 10.
    """
    table = {BEGIN: {END: 0.6, A: 0.4}, A: {A: 0.31, B: 0.4, C: 0.29}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    found = beam_search(model, table_memory(model), beams=4, groups=2, diversity=5.0, max_tokens=2)
    assert [written(tokens) for tokens in found.tokens[0]] == [(END,), (END,), (A, B), (A, C)]


@every_model
def test_diverse_groups_differ_and_without_a_penalty_are_alike(name: str) -> None:
    model = captioner(name, words=30)
    memory = model.encode(grids())
    diverse = beam_search(model, memory, beams=4, groups=4, diversity=100.0, max_tokens=6)
    for image in range(2):
        assert len(set(diverse.tokens[image, :, 1].tolist())) == 4
    same = beam_search(model, memory, beams=6, groups=3, diversity=0.0, max_tokens=6)
    one = beam_search(model, memory, beams=2, max_tokens=6)
    assert torch.equal(same.tokens, one.tokens.repeat_interleave(3, dim=1))


@every_model
@pytest.mark.parametrize("decode", [greedy, DECODERS["beams"], DECODERS["groups"]])
def test_an_image_is_captioned_alike_in_any_company(name: str, decode: Decode) -> None:
    model, batch = captioner(name, words=30), grids()
    together = decode(model, model.encode(batch), max_tokens=8)
    for image in range(2):
        found = decode(model, model.encode(alone(batch, image)), max_tokens=8)
        for single, several in zip(found.tokens[0], together.tokens[image], strict=True):
            assert written(single) == written(several)


@every_model
@every_decoder
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_words_follow_each_other_twice(name: str, decode: Decode, size: int) -> None:
    model = captioner(name)
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier.bias, Tensor)
    classifier.bias.data[END] = -5.0  # captions of three words must repeat them
    memory = model.encode(grids())
    repeated = []
    for no_repeat in (0, size):
        tokens = decode(model, memory, max_tokens=12, no_repeat=no_repeat).tokens
        counts = [
            Counter(zip(*(caption[start:] for start in range(size)), strict=False))
            for caption in map(written, tokens.flatten(0, 1))
        ]
        repeated.append(max(max(count.values(), default=0) for count in counts))
    assert repeated[0] > 1
    assert repeated[1] == 1


@every_model
@every_decoder
def test_special_tokens_are_never_written(name: str, decode: Decode) -> None:
    model = captioner(name)
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier.bias, Tensor)
    classifier.bias.data[[PADDING, UNKNOWN, BEGIN]] = 20.0
    tokens = decode(model, model.encode(grids()), max_tokens=6).tokens
    for caption in tokens.flatten(0, 1):
        assert set(written(caption)) <= {END, A, B, C}
        assert END not in written(caption)[:-1]


@every_model
@every_decoder
def test_scores_are_those_of_teacher_forcing(name: str, decode: Decode) -> None:
    model = captioner(name)
    memory = model.encode(grids())
    found = decode(model, memory, max_tokens=5)
    assert not found.log_probabilities.requires_grad
    tokens = found.tokens.flatten(0, 1)
    again = log_probabilities(model.logits(memory, tokens[:, :-1]), tokens)
    torch.testing.assert_close(
        again.view_as(found.log_probabilities), found.log_probabilities, rtol=1e-4, atol=1e-5
    )
    again.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0


def test_log_probabilities_by_hand() -> None:
    table = {BEGIN: {A: 0.6, B: 0.4}, A: {B: 0.5, END: 0.5}, B: {END: 0.25, A: 0.75}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    tokens = torch.tensor([[BEGIN, A, B, END], [BEGIN, B, END, PADDING], [BEGIN, B, A, B]])
    found = log_probabilities(model.logits(table_memory(model), tokens[:, :-1]), tokens)
    expected = torch.tensor([[0.6, 0.5, 0.25], [0.4, 0.25, 1.0], [0.4, 0.75, 0.5]]).log()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("temperature", "nucleus", "first", "second"),
    [
        (1.0, 1.0, {A: 0.5, B: 0.3, END: 0.2}, {B: 0.9, END: 0.1}),
        # Squares, over their sum: 0.25, 0.09, 0.04; 0.81, 0.01.
        (0.5, 1.0, {A: 25 / 38, B: 9 / 38, END: 4 / 38}, {B: 81 / 82, END: 1 / 82}),
        # 0.5 is short of 0.7, with 0.3 it is not; 0.9 is enough alone.
        (1.0, 0.7, {A: 0.625, B: 0.375}, {B: 1.0}),
    ],
)
def test_words_are_drawn_as_often_as_they_should_be(
    temperature: float, nucleus: float, first: dict[int, float], second: dict[int, float]
) -> None:
    """UNKNOWN has half of the probability and is not a word: the others are drawn twice as often."""
    table = {
        BEGIN: {UNKNOWN: 0.5, A: 0.25, B: 0.15, END: 0.1},
        A: {B: 0.9, END: 0.1},
        B: {END: 1.0},
    }
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    count = 20_000
    found = sample(
        model,
        table_memory(model),
        samples=count,
        generator=seeded(),
        temperature=temperature,
        nucleus=nucleus,
    )
    drawn = Counter(map(written, found.tokens[0]))
    expected = {(END,): first.get(END, 0.0), (B, END): first[B]}
    expected |= {(A, END): first[A] * second.get(END, 0.0), (A, B, END): first[A] * second[B]}
    assert set(drawn) <= set(expected)
    for caption, chance in expected.items():
        tolerance = 4 * math.sqrt(chance * (1 - chance) / count)
        assert drawn[caption] / count == pytest.approx(chance, abs=tolerance)


@every_model
def test_captions_are_drawn_as_often_as_their_probability_says(name: str) -> None:
    model = captioner(name)
    memory = model.encode(grids())
    count = 4000
    found = sample(model, memory, samples=count, generator=seeded(), max_tokens=2)
    for image in range(2):
        drawn = Counter(map(written, found.tokens[image]))
        chances = {caption: chance_of(model, memory, caption)[image] for caption in all_captions(2)}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        for caption, chance in chances.items():
            tolerance = 4 * math.sqrt(chance * (1 - chance) / count) + 1 / count
            assert drawn[caption] / count == pytest.approx(chance, abs=tolerance)


def chance_of(model: Captioner, memory: Any, caption: tuple[int, ...]) -> list[float]:
    """Return the probability that each image's caption is this one, among real words."""
    logits = model.logits(memory, torch.tensor([[BEGIN, *caption]] * 2)).double()
    logits[..., [PADDING, UNKNOWN, BEGIN]] = -torch.inf
    chances = logits.softmax(dim=2)
    return [
        math.prod(chances[image, place, word].item() for place, word in enumerate(caption))
        for image in range(2)
    ]


def test_a_nucleus_by_hand() -> None:
    chances = torch.tensor([[0.2, 0.5, 0.3], [0.05, 0.05, 0.9]])
    expected = [[0.0, 0.5, 0.3], [0.0, 0.0, 0.9]]
    torch.testing.assert_close(within_nucleus(chances, 0.6), torch.tensor(expected))


def test_the_generator_decides_what_is_drawn() -> None:
    model = captioner("updn", words=30)
    memory = model.encode(grids())
    first, again, other = (
        sample(model, memory, samples=3, generator=seeded(seed)).tokens for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@every_decoder
def test_captions_are_cut_off_at_the_limit(decode: Decode) -> None:
    table = {BEGIN: {A: 1.0}, A: {B: 1.0}, B: {END: 1.0}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    memory = table_memory(model, images=2)
    cut = decode(model, memory, max_tokens=2)
    assert cut.tokens[:, 0].tolist() == [[BEGIN, A, B]] * 2
    ended = decode(model, memory, max_tokens=9)
    assert [written(tokens) for tokens in ended.tokens[:, 0]] == [(A, B, END)] * 2
    assert ended.totals[:, 0].tolist() == [0.0, 0.0]


def test_writing_stops_when_all_captions_have_ended() -> None:
    table = {BEGIN: {A: 0.5, B: 0.5}, A: {B: 1.0}, B: {END: 1.0}}
    model = Table(table, tokens=SPECIAL_TOKENS + WORDS)
    for found in (
        sample(model, table_memory(model), samples=9, generator=seeded(), max_tokens=9),
        beam_search(model, table_memory(model), beams=2, max_tokens=9),
    ):
        captions = {tuple(tokens) for tokens in found.tokens[0].tolist()}
        assert captions == {(BEGIN, A, B, END), (BEGIN, B, END, PADDING)}


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda *of: greedy(*of, max_tokens=0), "max_tokens must be at least 1; got 0"),
        (lambda *of: greedy(*of, no_repeat=-1), "no_repeat is a number of words"),
        (lambda *of: beam_search(*of, beams=0), "beams must be at least 1; got 0"),
        (lambda *of: beam_search(*of, beams=1, max_tokens=0), "max_tokens must be at least 1"),
        (lambda *of: beam_search(*of, beams=4, groups=3), "groups must divide 4 beams; got 3"),
        (lambda *of: beam_search(*of, beams=4, groups=0), "groups must divide 4 beams; got 0"),
        (lambda *of: beam_search(*of, beams=1, alpha=-1.0), "alpha must be at least 0"),
        (lambda *of: beam_search(*of, beams=1, alpha=math.nan), "alpha must be at least 0"),
        (lambda *of: beam_search(*of, beams=1, diversity=-0.1), "diversity must be at least 0"),
        (lambda *of: sample(*of, samples=0, generator=seeded()), "samples must be at least 1"),
        (
            lambda *of: sample(*of, samples=1, generator=seeded(), temperature=0.0),
            "temperature must be more than 0; got 0.0",
        ),
        (
            lambda *of: sample(*of, samples=1, generator=seeded(), nucleus=0.0),
            "nucleus must be more than 0 and at most 1; got 0.0",
        ),
    ],
)
def test_rules_out_of_range_are_refused(decode: Decode, message: str) -> None:
    model = Table({BEGIN: {END: 1.0}}, tokens=SPECIAL_TOKENS + WORDS)
    with pytest.raises(UsageError, match=message):
        decode(model, table_memory(model))
