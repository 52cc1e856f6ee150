"""EnvDrop's encoder, decoder and critic, beside the equations written out in numpy and torch's LSTM."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfeat.train.models.follower import (
    Follower,
    FollowerState,
    Memory,
    read_packed,
    read_word_by_word,
)
from clipfeat.train.models.navigation_settings import EnvDropSettings
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm

DIM, WORDS, VIEWS, ACTIONS, REPEATS = 6, 20, 36, 4, 3
LENGTHS = torch.tensor([3, 7, 1, 5])
SMALL = {"word": 5, "hidden": 8, "action": 3, "angle_repeats": REPEATS}


def make(dim: int = DIM, words: int = WORDS, **settings: float) -> Follower:
    torch.manual_seed(3)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(dim), torch.ones(dim)), blind=False)
    return Follower(EnvDropSettings(**settings), norm, words=words)  # type: ignore[arg-type]


@pytest.fixture
def model() -> Follower:
    return make(**SMALL).double().eval()


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(1, WORDS, (4, 7))
    return tokens.masked_fill(torch.arange(7) >= LENGTHS[:, None], 0)


def seen(episodes: int = 4) -> tuple[Tensor, ...]:
    """Return what `step` takes: views, candidates (the last action is STOP), and the direction."""
    torch.manual_seed(2)
    shape = (episodes, ACTIONS)
    candidates, angles = torch.rand(*shape, DIM).double(), torch.rand(*shape, 4).double()
    candidates[:, -1], angles[:, -1] = 0, 0
    is_action = torch.ones(shape, dtype=torch.bool)
    is_action[0, 1] = False
    views, view_angles = torch.rand(episodes, VIEWS, DIM), torch.rand(episodes, VIEWS, 4)
    direction = torch.rand(episodes, 4).double()
    return views.double(), view_angles.double(), candidates, angles, is_action, direction


@pytest.mark.parametrize("pools_padding", [False, True])
def test_the_encoder_is_torchs_packed_lstm(
    model: Follower, tokens: Tensor, *, pools_padding: bool
) -> None:
    model.pools_padding = pools_padding
    states, cells = read_packed(model.reader, model.embedding(tokens), LENGTHS)
    memory, first = model.encode(tokens, LENGTHS)
    torch.testing.assert_close(memory.words, states)
    torch.testing.assert_close(first.cell, cells)
    assert memory.is_word.sum(1).tolist() == LENGTHS.tolist()
    for row, length in enumerate(LENGTHS.tolist()):
        own = states[row] if pools_padding else states[row, :length]
        tilde = (model.first.weight @ own.max(0).values + model.first.bias).tanh()
        torch.testing.assert_close(first.tilde[row], tilde)


def test_the_encoder_has_the_gradients_of_torchs_packed_lstm(
    model: Follower, tokens: Tensor
) -> None:
    found = []
    weights = [model.embedding.weight, *model.reader.parameters()]
    for read in (read_packed, read_word_by_word):
        states, cells = read(model.reader, model.embedding(tokens), LENGTHS)
        loss = (states**2).sum() + cells.sin().sum()
        found.append(torch.autograd.grad(loss, weights))
    assert len(found[0]) == 9
    torch.testing.assert_close(found[0], found[1])


def test_a_text_is_read_alike_in_every_batch_unless_padding_is_pooled(
    model: Follower, tokens: Tensor
) -> None:
    for pools_padding in (False, True):
        model.pools_padding = pools_padding
        _, together = model.encode(tokens, LENGTHS)
        _, alone = model.encode(tokens[2:3, :1], LENGTHS[2:3])
        same = torch.allclose(together.tilde[2], alone.tilde[0])
        assert same is not pools_padding


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def step_by_hand(
    model: Follower, row: int, memory: Memory, state: FollowerState
) -> list[np.ndarray]:
    """Return logits, value, attentional state and cell of one episode: the paper's equations."""
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    views, view_angles, candidates, angles, _, direction = (part[row].numpy() for part in seen())
    words = memory.words[row, : LENGTHS[row]].detach().numpy()
    tilde, cell = (part[row].detach().numpy() for part in state)
    panorama = np.concatenate([views, np.tile(view_angles, REPEATS)], 1)
    options = np.concatenate([candidates, np.tile(angles, REPEATS)], 1)
    looking = np.tile(direction, REPEATS)
    action = np.tanh(weights["direction.weight"] @ looking + weights["direction.bias"])
    saw = softmax(panorama @ (weights["look.weight"] @ tilde)) @ panorama
    gates = (
        weights["decoder.weight_ih"] @ np.concatenate([action, saw])
        + weights["decoder.bias_ih"]
        + weights["decoder.weight_hh"] @ tilde
        + weights["decoder.bias_hh"]
    )
    i, f, g, o = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    told = softmax(words @ (weights["read.weight"] @ hidden)) @ words
    tilde = np.tanh(weights["combine.weight"] @ np.concatenate([told, hidden]))
    logits = options @ (weights["choose.weight"] @ tilde)
    inner = np.maximum(weights["critic.0.weight"] @ hidden + weights["critic.0.bias"], 0)
    value = weights["critic.3.weight"] @ inner + weights["critic.3.bias"]
    return [logits, value[0], tilde, cell]


def test_a_step_is_that_of_the_equations(model: Follower, tokens: Tensor) -> None:
    memory, state = model.encode(tokens, LENGTHS)
    made = model.step(memory, state, *seen())  # type: ignore[arg-type]
    is_action = seen()[4]
    for row in range(4):
        logits, value, tilde, cell = step_by_hand(model, row, memory, state)
        expected = np.where(is_action[row], logits, -np.inf)
        np.testing.assert_allclose(made.logits[row].detach().numpy(), expected)
        np.testing.assert_allclose(made.value[row].item(), value)
        np.testing.assert_allclose(made.state.tilde[row].detach().numpy(), tilde)
        np.testing.assert_allclose(made.state.cell[row].detach().numpy(), cell)
    assert made.logits[:, -1].abs().max() == 0  # STOP: zeros, and no bias


@pytest.mark.parametrize("features", [0, 2])
def test_stop_has_a_logit_of_0_with_projected_features_too(features: int, tokens: Tensor) -> None:
    model = make(**SMALL, features=features).double().eval()
    made = model.step(*model.encode(tokens, LENGTHS), *seen())  # type: ignore[arg-type]
    assert made.logits[:, -1].abs().max() == 0
    assert made.logits[:, 0].abs().min() > 0


def test_the_paper_size_has_so_many_parameters() -> None:
    d, a, w, h, words = 512, 128, 256, 512, 992
    encoder = words * w + 2 * 4 * (h // 2) * (w + h // 2 + 2) + h * h + h
    decoder = a * 64 + 64 + h * (d + a) + 4 * h * (64 + d + a + h + 2) + h * h + 2 * h * h
    decoder += h * (d + a)
    critic = h * h + h + h + 1
    model = make(d, words)
    assert sum(each.numel() for each in model.parameters()) == encoder + decoder + critic
    assert encoder + decoder + critic == 5_776_961


def test_feature_dropout_is_fresh_for_views_and_candidates_and_spares_angles() -> None:
    model = make(**SMALL, feature_dropout=0.5, dropout=0.0).double().train()
    read: list[Tensor] = []
    whole = model._matches
    model._matches = lambda query, images, angles: (  # type: ignore[method-assign]
        read.extend((images, angles)) or whole(query, images, angles)
    )
    views, view_angles, _, _, is_action, direction = seen()
    same = (views, view_angles, views[:, :ACTIONS], view_angles[:, :ACTIONS], is_action, direction)
    memory, state = model.encode(torch.ones(4, 2, dtype=torch.int64), torch.full((4,), 2))
    model.step(memory, state, *same)
    of_views, of_candidates = read[0] == 0, read[2] == 0
    assert 0.4 < of_views.double().mean() < 0.6
    assert (of_views[:, :ACTIONS] != of_candidates).any()
    torch.testing.assert_close(read[0][~of_views], 2 * views[~of_views])
    assert torch.equal(read[1], view_angles)
    read.clear()
    kept = torch.tensor([0.0, 2, 2, 0, 2, 2]).double()
    model.step(memory, state, *same, kept=kept)
    torch.testing.assert_close(read[0], views * kept)
    torch.testing.assert_close(read[2], views[:, :ACTIONS] * kept)
