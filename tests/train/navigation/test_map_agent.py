"""The map agent's network: how scores are fused, what distances do, and that padding does nothing."""

import math
from typing import Any, cast

import pytest
import torch
from refused import refuses
from torch import nn
from torch.nn.functional import layer_norm, pad

from clipfeat.base.errors import UsageError
from clipfeat.train.models.map_agent import (
    CrossEncoder,
    MapAgent,
    Nodes,
    Panorama,
    fuse,
    stop_pose,
    view_places,
)
from clipfeat.train.models.navigation_settings import MapSettings
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.settings import NAV_PRESETS, NavigationSettings

DIM, WORDS = 6, 20
SMALL = MapSettings(hidden=8, heads=2, text_layers=1, panorama_layers=1, cross_layers=2)
PLAIN = MapSettings(hidden=4, heads=1, cross_layers=1, dropout=0.0)


def new_agent(settings=SMALL):
    torch.manual_seed(0)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    agent = MapAgent(settings, norm, words=WORDS).eval()
    agent.metre.data.fill_(-0.3)
    return agent


def test_fused_scores_by_hand():
    """Nodes: 0 start, visited; 1 here; 2 seen from here; 3 seen before; 4 padding.

    Candidates here: the start and node 2. STOP 1 + 10; node 2 its own 5 + 30; node 3, out of sight, 6 and
    what the view says of turning back to the start, 20.
    """
    fused = fuse(
        torch.tensor([[1.0, 3, 4, 5, 6, 99]]),
        torch.tensor([[10.0, 20, 30, 77]]),
        torch.tensor([[0, 2, 1]]),  # the third is padding, which stands for here
        torch.tensor([[True, True, False]]),
        torch.tensor([[False, False, True, True, False]]),
    )
    assert fused.tolist() == [[11, -math.inf, -math.inf, 35, 26, -math.inf]]


def test_nodes_out_of_sight_get_the_sum_of_visited_candidates():
    """Two candidates that have been visited, 1 and 2, add 20 + 300 to node 3; with none, nothing."""
    is_unvisited = torch.tensor([[False, False, False, True]])
    of_candidate = torch.tensor([[1, 2]])
    view = torch.tensor([[0.0, 20, 300]])
    maps = torch.tensor([[0.0, 0, 0, 0, 7]])
    for is_candidate, expected in (((True, True), 327), ((True, False), 27), ((False, False), 7)):
        fused = fuse(maps, view, of_candidate, torch.tensor([is_candidate]), is_unvisited)
        assert fused[0, 4] == expected


def test_shares_weigh_the_two_encoders():
    """With a share of sigmoid(0) = 1/2, the scores are half of each encoder's, added."""
    agent = new_agent()
    last(agent.share).weight.data.zero_()
    last(agent.share).bias.data.zero_()
    for part, score in ((agent.by_map, 3.0), (agent.by_view, 5.0)):
        last(part.score).weight.data.zero_()
        last(part.score).bias.data.fill_(score)
    scores = decide(agent, *inputs())
    # STOP and nodes in sight (3, 4): 1.5 + 2.5; out of sight (2): 1.5 + one visited candidate's 2.5
    assert scores[0].tolist() == [4, -math.inf, -math.inf, 4, 4, 4]
    last(agent.share).bias.data.fill_(100)  # all to the map
    assert decide(agent, *inputs())[0, [0, 3]].tolist() == pytest.approx([3, 3])


def last(head: nn.Sequential) -> nn.Linear:
    return cast(nn.Linear, head[-1])


def inputs(batch=2, nodes=5, views=4):
    """Node 0 is the start, 1 here; 0, 3 and 4 are candidates, 2 was seen before."""
    random = torch.Generator().manual_seed(1)

    def numbers(*shape):
        return torch.randn(*shape, generator=random)

    tokens = torch.randint(3, WORDS, (batch, 6), generator=random)
    items = 3 + views
    is_candidate = (torch.arange(items) < 3).expand(batch, -1)
    panorama = Panorama(
        numbers(batch, items, DIM),
        numbers(batch, items, 4),
        is_candidate,
        torch.ones_like(is_candidate),
    )
    places = numbers(batch, nodes, 3)
    known = Nodes(
        numbers(batch, nodes, SMALL.hidden),
        torch.tensor([1, 2, 0, 0, 0]).expand(batch, -1),
        numbers(batch, nodes, 7),
        torch.cdist(places, places).double(),
        torch.ones(batch, nodes, dtype=torch.bool),
        torch.tensor([0, 3, 4]).expand(batch, -1),
    )
    return tokens, known, panorama


def decide(agent, tokens, nodes, panorama):
    return agent.decide(agent.read(tokens), nodes, agent.look(panorama), panorama)


def test_padding_changes_no_score():
    """Of words, nodes, candidates and views; whatever numbers are in it."""
    agent = new_agent()
    tokens, nodes, panorama = inputs()
    scores = decide(agent, tokens, nodes, panorama)
    assert scores.isfinite().equal(torch.tensor([[True, False, False, True, True, True]] * 2))
    more = Nodes(
        pad(nodes.vectors, (0, 0, 0, 2), value=9),
        pad(nodes.visited_at, (0, 2)),
        pad(nodes.poses, (0, 0, 0, 2), value=9),
        pad(nodes.metres, (0, 2, 0, 2), value=math.inf),
        pad(nodes.is_node, (0, 2)),
        pad(nodes.of_candidate, (0, 2), value=1),
    )

    def wider(table, value):
        """Two more candidates, and one more view, which another candidate may use."""
        some = torch.full_like(table[:, :2], value)
        return torch.cat((table[:, :3], some, table[:, 3:], some[:, :1]), 1)

    seen = Panorama(*(wider(t, v) for t, v in zip(panorama, (9, 9, False, False), strict=True)))
    padded = decide(agent, pad(tokens, (0, 3)), more, seen)
    assert torch.allclose(padded[:, :6], scores, atol=1e-6)
    assert padded[:, 6:].isneginf().all()


def test_an_episode_does_not_depend_on_the_others():
    agent = new_agent()
    tokens, nodes, panorama = inputs()
    both = decide(agent, tokens, nodes, panorama)
    alone = decide(
        agent, tokens[1:], Nodes(*(t[1:] for t in nodes)), Panorama(*(t[1:] for t in panorama))
    )
    assert torch.allclose(alone, both[1:], atol=1e-6)


def test_the_order_of_nodes_does_not_matter():
    """Scores move with their nodes, apart from the start, which is the first."""
    agent = new_agent()
    tokens, nodes, panorama = inputs()
    scores = decide(agent, tokens, nodes, panorama)
    order = torch.tensor([0, 3, 4, 2, 1])
    place = order.argsort()
    other = Nodes(
        nodes.vectors[:, order],
        nodes.visited_at[:, order],
        nodes.poses[:, order],
        nodes.metres[:, order][:, :, order],
        nodes.is_node,
        place[nodes.of_candidate],
    )
    expected = torch.cat((scores[:, :1], scores[:, 1:][:, order]), 1)
    assert torch.allclose(decide(agent, tokens, other, panorama), expected, atol=1e-6)


def test_distances_are_added_to_the_scores_of_attention():
    """One layer with one head, written out: softmax(q k / sqrt(4) + bias) over what is there."""
    torch.manual_seed(0)
    encoder = CrossEncoder(PLAIN, place=7).eval()
    layer = cast(Any, encoder.layers[0])
    items, places, words = torch.randn(1, 3, 4), torch.randn(1, 4, 7), torch.randn(1, 2, 4)
    bias = torch.randn(1, 4, 4)
    is_item, is_word = torch.tensor([[True, True, False]]), torch.ones(1, 1, 1, 2).bool()
    stop, scores = encoder(items, places, is_item, encoder.project(words), is_word, bias)

    def attend(part, states, others, added):
        queries, keys, values = part.query(states), part.key(others), part.value(others)
        return part.merge((queries @ keys.mT / 2 + added).softmax(-1) @ values)

    states = torch.cat((encoder.stop.expand(1, 1, 4), items), 1) + encoder.place(places)
    states = layer_norm(states + attend(layer.across, states, words, 0), (4,))
    there = bias.clone()
    there[..., 3] = -math.inf
    states = layer_norm(states + attend(layer.among, states, states, there), (4,))
    states = layer_norm(states + layer.feed(states), (4,))
    assert torch.allclose(stop, states[:, 0], atol=1e-5)
    assert torch.allclose(scores, encoder.score(states)[..., 0], atol=1e-5)


def test_the_distance_weight_reaches_the_map_and_learns():
    agent = new_agent()
    tokens, nodes, panorama = inputs()
    before = decide(agent, tokens, nodes, panorama)
    before[:, 0].sum().backward()
    assert agent.metre.grad
    agent.metre.data.zero_()
    far = nodes._replace(metres=nodes.metres * 10)
    none = decide(agent, tokens, nodes, panorama)
    assert not torch.allclose(none[:, 0], before[:, 0])
    assert torch.allclose(decide(agent, tokens, far, panorama), none)


def test_places_of_what_agents_see():
    """14 numbers: the pose of the start, then that of the candidate's node; views have none."""
    poses = torch.arange(21.0).reshape(1, 3, 7)
    is_candidate = torch.tensor([[True, False, False]])
    places = view_places(poses, torch.tensor([[2, 1]]), is_candidate)
    assert places.shape == (1, 4, 14)
    assert places[0, :, :7].equal(poses[0, 0].expand(4, -1))
    assert places[0, :, 7:].tolist() == [[0.0] * 7, poses[0, 2].tolist(), [0.0] * 7, [0.0] * 7]
    assert stop_pose(poses).tolist() == [[[0, 1, 0, 1, 0, 0, 0]]]


def test_dropout_of_features_leaves_angles():
    """With all but all features dropped, items of a panorama still differ by their angles."""
    agent = new_agent(MapSettings(hidden=8, heads=2, dropout=0.0, feature_dropout=0.999)).train()
    _, _, panorama = inputs()
    same = panorama._replace(features=torch.ones_like(panorama.features))
    agent.feature_dropout.p = 1.0
    items = agent.look(same._replace(is_candidate=same.is_seen))
    assert not torch.allclose(items[0, 0], items[0, 1])
    agent.feature_dropout.p = 0.0
    again = agent.look(same._replace(is_candidate=same.is_seen))
    assert not torch.allclose(items, again)


def test_bfloat16_scores_are_near():
    agent = new_agent()
    scores = decide(agent, *inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = decide(agent, *inputs())
    assert half.dtype == torch.float32
    assert torch.allclose(half, scores, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hidden": 9, "heads": 3}, "E-SETTINGS-HIDDEN"),
        ({"heads": 7}, "E-SETTINGS-HEADS"),
        ({"cross_layers": 0}, "E-SETTINGS-RANGE"),
        ({"feature_dropout": 1.0}, "E-SETTINGS-RANGE"),
        ({"expert": "spl"}, "E-SETTINGS-CHOICE"),
    ],
)
def test_wrong_sizes_are_refused(changes, code):
    with refuses(code, *list(changes)[:1], kind=UsageError):
        MapSettings(**changes)


def test_the_preset_has_the_defaults_of_the_model():
    settings = load_settings(NavigationSettings, config=NAV_PRESETS / "map.toml", assignments=[])
    assert settings.model == MapSettings()
    assert settings.teacher == "reference"
