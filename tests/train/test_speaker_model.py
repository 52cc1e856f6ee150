"""The speaker computes what its description says, by hand from its weights."""

from typing import Any

import numpy as np
import torch

from clipfeat.train.models.navigation_settings import SpeakerSettings
from clipfeat.train.models.speaker import Speaker
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm

DIM, REPEATS, VIEWS, HIDDEN, EMBEDDING, WORDS = 3, 2, 36, 6, 4, 9
PADDING, UNKNOWN, END, BEGIN = 0, 1, 2, WORDS - 1


def new_speaker(**changes):
    torch.manual_seed(17)
    sizes: dict[str, Any] = {"word": EMBEDDING, "hidden": HIDDEN, "angle_repeats": REPEATS}
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    return Speaker(SpeakerSettings(**(sizes | changes)), norm, words=WORDS).eval()


def new_paths(lengths=(3, 1, 4)):
    generator = torch.Generator().manual_seed(1)
    steps = max(lengths)
    chosen = torch.randn(len(lengths), steps, DIM + 4, generator=generator)
    views = torch.randn(len(lengths), steps, VIEWS, DIM + 4, generator=generator)
    is_step = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return chosen[..., :DIM], chosen[..., DIM:], views[..., :DIM], views[..., DIM:], is_step


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


def plain_logits(speaker, path, tokens, row):
    """The logits for one path without padding, one step and one word after the other."""
    weights = {name: t.double().numpy() for name, t in speaker.state_dict().items()}
    length = int(path[4][row].sum())
    chosen, angles, views, view_angles = (part[row, :length].double().numpy() for part in path[:4])
    taken = [np.concatenate([x, *[a] * REPEATS]) for x, a in zip(chosen, angles, strict=True)]
    there = [
        [np.concatenate([x, *[a] * REPEATS]) for x, a in zip(*each, strict=True)]
        for each in zip(views, view_angles, strict=True)
    ]
    states = plain_both_ways(weights, "steps", taken)
    seen = [plain_soft_dot(weights, "views", h, v) for h, v in zip(states, there, strict=True)]
    contexts = plain_both_ways(weights, "context", seen)
    hidden = plain_lstm(weights, "writer", [weights["words.weight"][t] for t in tokens])
    joined = [plain_soft_dot(weights, "attention", h, contexts) for h in hidden]
    return np.array([weights["classifier.weight"] @ x + weights["classifier.bias"] for x in joined])


def test_logits_equal_those_computed_by_hand():
    speaker, path = new_speaker(), new_paths()
    tokens = torch.tensor([[BEGIN, 3, 4], [BEGIN, 5, 1], [BEGIN, 7, 3]])
    with torch.no_grad():
        logits = speaker(*path, tokens)
    for row in range(3):
        expected = plain_logits(speaker, path, tokens[row].tolist(), row)
        assert np.allclose(logits[row].numpy(), expected, atol=1e-5)


def test_padding_of_a_batch_changes_nothing():
    speaker, path = new_speaker(), new_paths()
    *parts, is_step = path
    tokens = torch.tensor([[BEGIN, 3]] * 3)
    logits = speaker(*path, tokens)
    other = torch.where(is_step[..., None], parts[0], 1e3)
    assert logits.equal(speaker(other, *path[1:], tokens))
    longer = [torch.cat([part, part.new_ones(part[:, :2].shape)], 1) for part in parts]
    more = torch.cat([is_step, torch.zeros(3, 2, dtype=torch.bool)], 1)
    assert torch.allclose(logits, speaker(*longer, more, tokens), atol=1e-6)


def plain_greedy(speaker, path, row, barred, most):
    tokens = [BEGIN]
    while len(tokens) <= most and tokens[-1] != END:
        logits = plain_logits(speaker, path, tokens, row)[-1]
        logits[[PADDING, BEGIN, *barred]] = -np.inf
        tokens.append(int(logits.argmax()))
    return tokens[1:]


def large_weights(speaker):
    """Larger weights, so that words depend on the path; without a rule, other tokens are written."""
    with torch.no_grad():
        for weight in speaker.parameters():
            weight *= 4
        speaker.classifier.bias[[PADDING, UNKNOWN, BEGIN]] += 5
    return speaker


def test_writing_takes_the_likeliest_word_that_is_allowed():
    """Rows of a batch end at different words, and one at the limit."""
    speaker, path = large_weights(new_speaker()), new_paths((3, 1, 4, 2, 4))
    for barred in ((UNKNOWN,), ()):
        written = speaker.write(*path, begin=BEGIN, end=END, barred=barred, max_words=7)
        assert not written.requires_grad
        texts = [plain_greedy(speaker, path, row, barred, 7) for row in range(5)]
        for row, text in enumerate(texts):
            assert written[row].tolist() == text + [PADDING] * (written.shape[1] - len(text))
        if barred:
            assert {len(text) for text in texts} == {1, 3, 5, 7}
        else:
            assert all(UNKNOWN in text for text in texts), "the likeliest of all"


def test_writing_ends_with_the_last_text_or_at_the_limit():
    speaker, path = new_speaker(), new_paths()
    rules = {"begin": BEGIN, "end": END, "barred": (UNKNOWN,), "max_words": 4}
    with torch.no_grad():
        speaker.classifier.bias[END] = 100
    assert speaker.write(*path, **rules).tolist() == [[END]] * 3
    with torch.no_grad():
        speaker.classifier.bias[END] = -100
    assert speaker.write(*path, **rules).shape == (3, 4)
    assert not (speaker.write(*path, **rules) == END).any()


def test_environment_dropout_takes_the_place_of_feature_dropout():
    """What is kept multiplies candidates and views alike, and never their angles."""
    speaker, path = new_speaker(dropout=0.0), new_paths()
    kept = torch.tensor([0.0, 1 / 0.6, 1 / 0.6])
    masked = (path[0] * kept, path[1], path[2] * kept, *path[3:])
    expected = speaker.encode(*masked)
    assert not expected.equal(speaker.encode(*path))
    assert speaker.encode(*path, kept=kept).equal(expected)
    speaker.train()
    assert speaker.encode(*path, kept=kept).equal(expected), "without feature dropout"
    assert not speaker.encode(*masked).equal(expected)


def test_feature_dropout_leaves_angles():
    """All images dropped, what is read are the angles: the same twice, and those of zero images."""
    speaker, path = new_speaker(dropout=0.0, feature_dropout=0.999999), new_paths()
    without = (path[0] * 0, path[1], path[2] * 0, *path[3:])
    expected = speaker.encode(*without)
    assert speaker.train().encode(*path).equal(expected)
