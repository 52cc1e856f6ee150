"""The models' parts against torch's own layers, and against sums done by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, layer_norm

from clipfeat.train.models.layers import (
    AnswerBatch,
    MultiHeadAttention,
    Reduction,
    SumHead,
    WordStates,
)
from clipfeat.train.models.mcan import GuidedAttention, SelfAttention
from clipfeat.train.models.movie_mcan import ModulatedBottleneck, Movie, cell_maps
from clipfeat.train.models.probes import AttentiveProbe, LinearProbe
from clipfeat.train.models.pythia import ProductAttention
from clipfeat.train.models.settings import AttentiveProbeSettings, LinearProbeSettings
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm

TEXTS, CELLS, WORDS, CHANNELS, HEADS = 3, 6, 5, 16, 4
SEEN = torch.arange(CELLS) < torch.tensor([[6], [4], [1]])
REAL = torch.arange(WORDS) < torch.tensor([[2], [5], [1]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def copy_linear(ours: nn.Linear, theirs: nn.Linear) -> None:
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Copy the weights; the key's bias, which ours lacks, becomes random."""
    key_bias = torch.randn(CHANNELS)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat((ours.query.weight, ours.key.weight, ours.value.weight))
        )
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, key_bias, ours.value.bias)))
    copy_linear(ours.merge, theirs.out_proj)


def copy_feed(ours: nn.Sequential, first: nn.Linear, second: nn.Linear) -> None:
    inner, outer = ours[0], ours[3]
    assert isinstance(inner, nn.Linear)
    assert isinstance(outer, nn.Linear)
    copy_linear(inner, first)
    copy_linear(outer, second)


def randomize_norms(*pairs: tuple[nn.LayerNorm, nn.LayerNorm]) -> None:
    for ours, theirs in pairs:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        theirs.load_state_dict(ours.state_dict())


def test_multi_head_attention_is_that_of_torch() -> None:
    """A bias of the keys makes no difference, which is why ours have none."""
    ours = MultiHeadAttention(CHANNELS, heads=HEADS, dropout=0.0)
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    copy_attention(ours, theirs)
    queries, items = torch.randn(TEXTS, CELLS, CHANNELS), torch.randn(TEXTS, WORDS, CHANNELS)
    expected, _ = theirs(queries, items, items, key_padding_mask=~REAL)
    torch.testing.assert_close(ours(queries, items, REAL), expected)


def test_self_attention_is_an_encoder_layer_of_torch() -> None:
    ours = SelfAttention(CHANNELS, heads=HEADS, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(
        CHANNELS, HEADS, 4 * CHANNELS, dropout=0.0, batch_first=True
    )
    copy_attention(ours.among, theirs.self_attn)
    copy_feed(ours.feed, theirs.linear1, theirs.linear2)
    randomize_norms((ours.among_sum.norm, theirs.norm1), (ours.feed_sum.norm, theirs.norm2))
    words = torch.randn(TEXTS, WORDS, CHANNELS)
    expected = theirs(words, src_key_padding_mask=~REAL)
    torch.testing.assert_close(ours(words, REAL)[REAL], expected[REAL])


def test_guided_attention_is_a_decoder_layer_of_torch() -> None:
    ours = GuidedAttention(CHANNELS, heads=HEADS, dropout=0.0)
    theirs = nn.TransformerDecoderLayer(
        CHANNELS, HEADS, 4 * CHANNELS, dropout=0.0, batch_first=True
    )
    copy_attention(ours.among, theirs.self_attn)
    copy_attention(ours.guided, theirs.multihead_attn)
    copy_feed(ours.feed, theirs.linear1, theirs.linear2)
    randomize_norms(
        (ours.among_sum.norm, theirs.norm1),
        (ours.guided_sum.norm, theirs.norm2),
        (ours.feed_sum.norm, theirs.norm3),
    )
    cells, words = torch.randn(TEXTS, CELLS, CHANNELS), torch.randn(TEXTS, WORDS, CHANNELS)
    expected = theirs(cells, words, tgt_key_padding_mask=~SEEN, memory_key_padding_mask=~REAL)
    torch.testing.assert_close(ours(cells, SEEN, words, REAL)[SEEN], expected[SEEN])


def test_a_reduction_gives_means_where_its_scores_are_equal() -> None:
    reduction = Reduction(CHANNELS, inner=8, glimpses=2, dropout=0.0)
    nn.init.zeros_(reduction.get_parameter("score.3.weight"))
    cells = torch.randn(TEXTS, CELLS, CHANNELS)
    vectors, weights = reduction(cells, SEEN)
    assert weights.shape == (TEXTS, 2, CELLS)
    for text, count in enumerate((6, 4, 1)):
        mean = cells[text, :count].mean(dim=0)
        torch.testing.assert_close(vectors[text], mean.expand(2, CHANNELS))


def test_pythias_attention_by_hand() -> None:
    """Products of relu((x, y)) and relu((q, 2q)), summed: x + 2y at q = 1, none at q = -1."""
    attention = ProductAttention(dim=2, question=1, joint=2, dropout=0.0)
    weights = {
        "cell.0": torch.eye(2),
        "question.0": torch.tensor([[1.0], [2.0]]),
        "score": torch.ones(1, 2),
    }
    for name, weight in weights.items():
        direction = f"{name}.parametrizations.weight.original"
        length = attention.get_parameter(f"{direction}0")
        assert length.numel() == 1  # one length a matrix, not one a row
        length.data.fill_(weight.norm())
        attention.get_parameter(f"{direction}1").data.copy_(3 * weight)  # any length will do
    for name in ("cell.0.bias", "question.0.bias"):
        nn.init.zeros_(attention.get_parameter(name))

    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    found = attention(features, mask, torch.tensor([0, 0]), torch.tensor([[1.0], [-1.0]]))
    total = math.e + math.e**2 + 1
    expected = [[math.e / total, math.e**2 / total, 1 / total, 0], [1 / 3, 1 / 3, 1 / 3, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_cells_are_on_the_map_row_by_row() -> None:
    cells = torch.arange(1.0, 13).view(2, 6, 1)  # a grid of 2x3, and one of 3x1 with a dead cell
    mask = torch.tensor([[True] * 6, [True, False, True] + [False] * 3])
    maps, real = cell_maps(cells, mask, torch.tensor([[2, 3], [3, 1]]))
    expected = [[[1, 2, 3], [4, 5, 6], [0, 0, 0]], [[7, 0, 0], [0, 0, 0], [9, 0, 0]]]
    assert maps[..., 0].tolist() == expected
    assert torch.equal(real, maps[..., 0] > 0)


def test_a_modulated_bottleneck_is_three_convolutions_with_the_questions_kernel() -> None:
    """On a full map: the question scales the input channels of the first kernel, text by text."""
    block = ModulatedBottleneck(CHANNELS)
    for norm in (block.narrow_norm, block.around_norm, block.widen_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    maps, question = torch.randn(TEXTS, 3, 4, CHANNELS), torch.randn(TEXTS, CHANNELS)
    found = block(maps, torch.ones(TEXTS, 3, 4, dtype=torch.bool), question)
    for text in range(TEXTS):
        image = maps[text].permute(2, 0, 1)[None]
        delta = block.delta.weight @ question[text] + block.delta.bias
        kernel = (block.narrow.weight * (1 + delta))[:, :, None, None]
        inner = normed(conv2d(image, kernel), block.narrow_norm).relu()
        inner = normed(conv2d(inner, block.around.weight, padding=1), block.around_norm).relu()
        outer = normed(conv2d(inner, block.widen.weight[:, :, None, None]), block.widen_norm)
        expected = (image + outer).relu()[0].permute(1, 2, 0)
        torch.testing.assert_close(found[text], expected)


def normed(image: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return a map, channels first, with the channels of each position normed."""
    channels_last = image.permute(0, 2, 3, 1)
    return layer_norm(channels_last, norm.normalized_shape, norm.weight, norm.bias).permute(
        0, 3, 1, 2
    )


def test_padding_changes_nothing_for_movie() -> None:
    movie = Movie(CHANNELS, layers=3)
    for parameter in movie.parameters():  # biases too, which would fill padding
        nn.init.normal_(parameter, std=0.5)
    question = torch.randn(1, CHANNELS)
    small = torch.randn(1, 2, 3, CHANNELS)
    large = torch.zeros(1, 5, 7, CHANNELS)
    large[:, :2, :3] = small
    real = large[..., 0] != 0
    expected = movie(small, torch.ones(1, 2, 3, dtype=torch.bool), question)
    torch.testing.assert_close(movie(large, real, question), expected, rtol=1e-4, atol=1e-5)


def test_a_head_takes_as_many_vectors_as_it_was_built_for() -> None:
    head = SumHead(CHANNELS, vectors=2, joint=8, answers=3)
    with pytest.raises(ValueError, match="zip"):
        head(torch.randn(TEXTS, CHANNELS))


def test_word_states_are_those_of_a_float32_lstm_whatever_the_precision_of_the_rest() -> None:
    """There are processors on which torch has no bfloat16 LSTM."""
    ours = WordStates(tokens=9, embedding=4, hidden=CHANNELS)
    tokens = torch.randint(2, 9, (TEXTS, WORDS)) * REAL
    theirs = nn.LSTM(4, CHANNELS, batch_first=True)
    theirs.load_state_dict(ours.lstm.state_dict())
    expected, _ = theirs(ours.words.weight[tokens])
    with torch.autocast("cpu", torch.bfloat16):
        states, real = ours(tokens)
    assert torch.equal(states, expected)
    assert torch.equal(real, REAL)


def probe_batch() -> AnswerBatch:
    """Return three questions about a 2x3 grid, a 2x2 one and again the first, of 2 channels."""
    return AnswerBatch(
        features=torch.randn(2, CELLS, 2),
        mask=SEEN[:2],
        grid_shapes=torch.tensor([[2, 3], [2, 2]]),
        image_of_text=torch.tensor([0, 1, 0]),
        tokens=torch.tensor([[2, 3, 0], [4, 0, 0], [3, 3, 5]]),
        targets=torch.zeros(3, 5),
    )


def unit_norm() -> FeatureNorm:
    return FeatureNorm(ChannelStatistics(torch.zeros(2), torch.ones(2)), blind=False)


def test_the_attentive_probe_is_attention_of_torch_and_a_perceptron() -> None:
    settings = AttentiveProbeSettings(
        embedding=4, queries=2, hidden=CHANNELS, heads=HEADS, positions=False, dropout=0.0
    )
    probe = AttentiveProbe(settings, unit_norm(), tokens=6, answers=5)
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    copy_attention(probe.attention, theirs)
    batch = probe_batch()
    logits, attention, _ = probe(batch)
    for text, (image, cells) in enumerate([(0, 6), (1, 4), (0, 6)]):
        queries = probe.queries + probe.condition(probe.text(batch.tokens[text : text + 1]))
        seen = probe.appearance(batch.features[image, :cells])
        read, weights = theirs(queries[None], seen[None], seen[None])  # weights: mean of heads
        states = queries + read[0]
        states = states + probe.feed(states)
        expected = probe.classifier(states).mean(dim=0)  # of a linear layer, in either order
        torch.testing.assert_close(logits[text], expected)
        torch.testing.assert_close(attention[text, :cells], weights[0].mean(dim=0))


def test_the_linear_probe_by_hand() -> None:
    """The first answer is the mean of channel 0, the second that of the words' numbers, plus 10."""
    probe = LinearProbe(LinearProbeSettings(embedding=1), unit_norm(), tokens=6, answers=2)
    with torch.no_grad():
        probe.words.weight.copy_(torch.arange(6.0)[:, None])
        probe.classifier.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        probe.classifier.bias.copy_(torch.tensor([0.0, 10.0]))
    batch = probe_batch()
    channel = torch.arange(6.0)  # of the real cells of both images; their means are 2.5 and 1.5
    features = torch.where(SEEN[:2, :, None], channel[:, None], torch.nan).expand(2, 6, 2)
    logits, attention, _ = probe(batch._replace(features=features))
    expected = torch.tensor([[2.5, 12.5], [1.5, 14.0], [2.5, 10.0 + 11 / 3]])
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(attention[0], torch.full((6,), 1 / 6))
    torch.testing.assert_close(attention[1], torch.tensor([0.25] * 4 + [0.0] * 2))
