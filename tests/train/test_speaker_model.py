"""The speaker computes what its description says, by hand from its weights."""

import numpy as np
import pytest
import torch

from clipfeat.train.models.speaker import Speaker
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm

DIM, VIEWS, HIDDEN, EMBEDDING, WORDS = 5, 36, 6, 4, 9
PADDING, UNKNOWN, END, BEGIN = 0, 1, 2, WORDS - 1


def new_speaker(**changes):
    torch.manual_seed(0)
    sizes = {"dim": DIM, "words": WORDS, "embedding": EMBEDDING, "hidden": HIDDEN, "dropout": 0.0}
    norm = FeatureNorm(ChannelStatistics(torch.zeros(3), torch.ones(3)), blind=False)
    return Speaker(norm, **(sizes | changes)).eval()


def new_paths(lengths=(3, 1, 4)):
    generator = torch.Generator().manual_seed(1)
    steps = max(lengths)
    chosen = torch.randn(len(lengths), steps, DIM, generator=generator)
    views = torch.randn(len(lengths), steps, VIEWS, DIM, generator=generator)
    is_step = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return chosen, views, is_step


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def plain_lstm(weights, name, inputs, suffix=""):
    """The states of an LSTM from zero, one input after the other; gates are i, f, g, o."""
    w, u, b, c = (
        weights[f"{name}.{part}_l0{suffix}"]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = cell = np.zeros(u.shape[1])
    states = []
    for x in inputs:
        i, f, g, o = np.split(w @ x + b + u @ h + c, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        states.append(h)
    return states


def plain_both_ways(weights, name, inputs):
    there = plain_lstm(weights, name, inputs)
    back = plain_lstm(weights, name, inputs[::-1], "_reverse")[::-1]
    return [np.concatenate(pair) for pair in zip(there, back, strict=True)]


def plain_soft_dot(weights, name, query, items):
    alpha = softmax(np.array([item @ (weights[f"{name}.score.weight"] @ query) for item in items]))
    gathered = sum(a * item for a, item in zip(alpha, items, strict=True))
    return np.tanh(weights[f"{name}.join.weight"] @ np.concatenate([gathered, query]))


def plain_logits(speaker, chosen, views, tokens):
    """The logits for one path without padding, one step and one word after the other."""
    weights = {name: t.double().numpy() for name, t in speaker.state_dict().items()}
    states = plain_both_ways(weights, "steps", chosen)
    seen = [
        plain_soft_dot(weights, "views", h, list(v)) for h, v in zip(states, views, strict=True)
    ]
    contexts = plain_both_ways(weights, "context", seen)
    hidden = plain_lstm(weights, "writer", [weights["words.weight"][t] for t in tokens])
    joined = [plain_soft_dot(weights, "attention", h, contexts) for h in hidden]
    return np.array([weights["classifier.weight"] @ x + weights["classifier.bias"] for x in joined])


def test_logits_equal_those_computed_by_hand():
    speaker, (chosen, views, is_step) = new_speaker(), new_paths()
    tokens = torch.tensor([[BEGIN, 3, 4], [BEGIN, 5, 1], [BEGIN, 7, 3]])
    with torch.no_grad():
        logits = speaker(chosen, views, is_step, tokens)
    for row, length in enumerate(is_step.sum(1).tolist()):
        expected = plain_logits(
            speaker,
            list(chosen[row, :length].double().numpy()),
            list(views[row, :length].double().numpy()),
            tokens[row].tolist(),
        )
        assert np.allclose(logits[row].numpy(), expected, atol=1e-5)


def test_padding_of_a_batch_changes_nothing():
    speaker, (chosen, views, is_step) = new_speaker(), new_paths()
    tokens = torch.tensor([[BEGIN, 3]] * 3)
    logits = speaker(chosen, views, is_step, tokens)
    other = torch.where(is_step[..., None], chosen, 1e3)
    assert logits.equal(speaker(other, views, is_step, tokens))
    longer = [torch.cat([part, part.new_ones(part[:, :2].shape)], 1) for part in (chosen, views)]
    more = torch.cat([is_step, torch.zeros(3, 2, dtype=torch.bool)], 1)
    assert torch.allclose(logits, speaker(*longer, more, tokens), atol=1e-6)


def plain_greedy(speaker, chosen, views, barred, most):
    tokens = [BEGIN]
    while len(tokens) <= most and tokens[-1] != END:
        logits = plain_logits(speaker, chosen, views, tokens)[-1]
        logits[[PADDING, BEGIN, *barred]] = -np.inf
        tokens.append(int(logits.argmax()))
    return tokens[1:]


@pytest.mark.parametrize("barred", [(UNKNOWN,), (UNKNOWN, 5)])
def test_writing_takes_the_likeliest_word_that_is_allowed(barred):
    """Rows of a batch end at different words, and one at the limit."""
    speaker, (chosen, views, is_step) = new_speaker(), new_paths((3, 1, 4, 2, 4))
    with torch.no_grad():  # larger weights, so that words depend on the path
        for weight in speaker.parameters():
            weight *= 4
        speaker.classifier.bias[[PADDING, UNKNOWN, BEGIN]] += 5
        speaker.classifier.bias[END] += 1
    written = speaker.write(
        chosen, views, is_step, begin=BEGIN, end=END, barred=barred, max_words=7
    )
    assert not written.requires_grad
    texts = []
    for row, length in enumerate(is_step.sum(1).tolist()):
        steps = list(chosen[row, :length].double().numpy())
        seen = list(views[row, :length].double().numpy())
        texts.append(plain_greedy(speaker, steps, seen, barred, 7))
        padding = [PADDING] * (written.shape[1] - len(texts[-1]))
        assert written[row].tolist() == texts[-1] + padding
    lengths = {len(text) for text in texts}
    assert min(lengths) < 7 == max(lengths)


def test_writing_ends_with_the_last_text_or_at_the_limit():
    speaker, paths = new_speaker(), new_paths()
    rules = {"begin": BEGIN, "end": END, "barred": (UNKNOWN,), "max_words": 4}
    with torch.no_grad():
        speaker.classifier.bias[END] = 100
    assert speaker.write(*paths, **rules).tolist() == [[END]] * 3
    with torch.no_grad():
        speaker.classifier.bias[END] = -100
    assert speaker.write(*paths, **rules).shape == (3, 4)
    assert not (speaker.write(*paths, **rules) == END).any()
