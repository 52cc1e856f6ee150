"""The models' parts against torch's own layers, and against sums done by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from clipfeat.train.models.layers import (
    AnswerBatch,
    MultiHeadAttention,
    Reduction,
    SumHead,
    WordStates,
)
from clipfeat.train.models.mcan import GuidedAttention, SelfAttention
from clipfeat.train.models.movie_mcan import (
    ModulatedBottleneck,
    Movie,
    SqueezeExcitation,
    cell_maps,
)
from clipfeat.train.models.probes import AttentiveProbe, LinearProbe
from clipfeat.train.models.pythia import ProductAttention
from clipfeat.train.models.settings import (
    AttentiveProbeSettings,
    LinearProbeSettings,
    UpDnLargeSettings,
)
from clipfeat.train.models.updn import UpDnLarge
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


FULL = torch.ones(TEXTS, 9, 8, dtype=torch.bool)


def pointwise(image: Tensor, linear: nn.Linear) -> Tensor:
    """Return the 1x1 convolution of a map, channels first, that a linear layer is."""
    return conv2d(image, linear.weight[:, :, None, None], linear.bias)


def gated(image: Tensor, gate: SqueezeExcitation) -> Tensor:
    """Return a map, channels first, as torch's modules scale its channels and then its positions."""
    pooled = nn.AdaptiveAvgPool2d(1)(image)
    scaled = image * pointwise(pointwise(pooled, gate.squeeze).relu(), gate.excite).sigmoid()
    strength = scaled.mean(dim=1, keepdim=True)
    return scaled * conv2d(strength, gate.around.weight, padding=3).sigmoid()


def test_squeeze_and_excitation_is_that_of_torch_on_a_full_map() -> None:
    gate = SqueezeExcitation(CHANNELS)
    nn.init.normal_(gate.around.weight)  # at its beginning all gates are nearly 1/2
    maps = torch.randn(TEXTS, 9, 8, CHANNELS)
    expected = gated(maps.permute(0, 3, 1, 2), gate).permute(0, 2, 3, 1)
    torch.testing.assert_close(gate(maps, FULL), expected)


def test_gates_by_hand() -> None:
    """One cell of four is real: the mean is its own value, and the window sees no other."""
    gate = SqueezeExcitation(4)
    for weight in (gate.squeeze.weight, gate.excite.weight, gate.around.weight):
        nn.init.ones_(weight)
    maps = torch.zeros(1, 2, 2, 4)
    maps[0, 1, 0] = torch.tensor([1.0, 0.0, 0.0, 2.0])
    found = gate(maps, maps[..., 0] != 0)
    channel = 1 / (1 + math.exp(-3))  # squeezed to 1 + 2
    position = 1 / (1 + math.exp(-3 * channel / 4))  # the mean of 1, 0, 0, 2 after that gate
    torch.testing.assert_close(found, maps * channel * position)


@pytest.mark.parametrize("inputs", [CHANNELS, 6])
def test_a_modulated_bottleneck_adds_a_convolution_of_the_scaled_input(inputs: int) -> None:
    """On a full map, text by text: the question scales the input channels of a second kernel."""
    block = ModulatedBottleneck(inputs, CHANNELS, question=5)
    maps, question = torch.randn(TEXTS, 9, 8, inputs), torch.randn(TEXTS, 5)
    found = block(maps, FULL, question)
    for text in range(TEXTS):
        image = maps[text].permute(2, 0, 1)[None]
        delta = (block.delta.weight @ question[text] + block.delta.bias)[:, None, None]
        inner = pointwise(image, block.narrow) + pointwise(image * delta, block.narrow_modulated)
        inner = conv2d(inner.relu(), block.around.weight, padding=1).relu()
        shortcut = block.shortcut
        kept = pointwise(image, shortcut) if isinstance(shortcut, nn.Linear) else image
        expected = (gated(pointwise(inner, block.widen), block.gate) + kept).relu()
        torch.testing.assert_close(found[text], expected[0].permute(1, 2, 0))
    assert isinstance(block.shortcut, nn.Linear) == (inputs != CHANNELS)


def movie_of(layers: int) -> Movie:
    """Return a MoVie with biases, which would fill padding."""
    movie = Movie(6, CHANNELS, layers=layers, question=5)
    for parameter in movie.parameters():
        nn.init.normal_(parameter, std=0.5)
    return movie


def test_padding_changes_nothing_for_movie() -> None:
    movie, question = movie_of(layers=3), torch.randn(1, 5)
    small = torch.randn(1, 2, 3, 6)
    large = torch.zeros(1, 9, 8, 6)
    large[:, :2, :3] = small
    real = large[..., 0] != 0
    expected = movie(small, torch.ones(1, 2, 3, dtype=torch.bool), question)
    torch.testing.assert_close(movie(large, real, question), expected, rtol=1e-4, atol=1e-5)


def test_movie_is_the_norm_of_a_sum_over_32_times_32_positions() -> None:
    movie, question = movie_of(layers=1), torch.randn(TEXTS, 5)
    maps = torch.randn(TEXTS, 9, 8, 6)
    cells = movie.blocks[0](maps, FULL, question)
    expected = movie.norm(movie.empty + cells.flatten(1, 2).sum(dim=1) / 1024)
    torch.testing.assert_close(movie(maps, FULL, question), expected)


def test_movie_tells_amounts_apart() -> None:
    """Twice as many equal cells: a LayerNorm of their mean, or of their sum, would be the same."""
    movie, question = movie_of(layers=0), torch.zeros(1, 5)
    few, many = torch.ones(1, 4, 4, CHANNELS), torch.ones(1, 8, 4, CHANNELS)
    few, many = few * torch.linspace(-9, 9, CHANNELS), many * torch.linspace(-9, 9, CHANNELS)
    one, other = (movie(maps, maps[..., 0] != 0, question) for maps in (few, many))
    assert (one - other).abs().max() > 0.05
    nn.init.zeros_(movie.empty)
    one, other = (movie(maps, maps[..., 0] != 0, question) for maps in (few, many))
    assert (one - other).abs().max() < 0.01


def test_updn_large_by_plain_layers() -> None:
    """Weight normalisation changes how layers are trained, and no number that they give."""
    settings = UpDnLargeSettings(embedding=4, hidden=8)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(6), torch.ones(6)), blind=False)
    model = UpDnLarge(settings, norm, tokens=9, answers=3).eval()
    tokens = torch.randint(2, 9, (TEXTS, WORDS))
    features, mask = torch.randn(TEXTS, CELLS, 6), torch.ones(TEXTS, CELLS, dtype=torch.bool)
    shapes, image = torch.tensor([[2, 3]] * TEXTS), torch.arange(TEXTS)
    logits, weights, _ = model(
        AnswerBatch(features, mask, shapes, image, tokens, torch.zeros(TEXTS, 3))
    )
    question = model.question.gru(model.question.words(tokens))[1][0]
    products = model.attention.cell(features) * model.attention.question(question)[:, None]
    expected = model.attention.score(products)[..., 0].softmax(dim=1)
    torch.testing.assert_close(weights, expected)
    attended = (expected[..., None] * features).sum(dim=1)
    fused = model.question_for_fusion(question) * model.image_for_fusion(attended)
    torch.testing.assert_close(logits, model.classifier(fused))
    lengths = [name for name, _ in model.named_parameters() if name.endswith("original0")]
    assert len(lengths) == 7  # every layer but the GRU; one length a layer
    assert all(model.get_parameter(name).numel() == 1 for name in lengths)
    assert [part.p for part in model.modules() if isinstance(part, nn.Dropout)] == [0.2, 0.5]


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
        queries = probe.queries.weight + probe.condition(probe.text(batch.tokens[text : text + 1]))
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
