"""The captioners: padding, steps against whole captions, torch's layers, and that they learn."""

import math
from typing import Any

import pytest
import torch
from captioners import TINY, alone, captioner, grids
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clipfeat.base.errors import UsageError
from clipfeat.train.data.caption_vocabulary import BEGIN, END
from clipfeat.train.models.caption_transformer import TransformerCaptioner, sinusoids
from clipfeat.train.models.captioner import Captioner, select
from clipfeat.train.models.decoding import greedy
from clipfeat.train.models.layers import MultiHeadAttention
from clipfeat.train.models.settings import TransformerCaptionerSettings, UpDnCaptionerSettings
from clipfeat.train.models.updn import UpDnCaptioner
from clipfeat.train.records import Records

every_model = pytest.mark.parametrize("name", TINY)
# Two captions of each of the two images.
TOKENS = torch.tensor([[2, 4, 5, 6, 3], [2, 6, 3, 0, 0], [2, 5, 5, 3, 0], [2, 3, 0, 0, 0]])
FIRST = torch.tensor([0, 0, 1, 1])  # the image of each


def logits_of(model: Captioner, records: Records) -> Tensor:
    """Return the logits of TOKENS, for each of which the memory of its image is copied."""
    return model(records, lambda captioner, memory: captioner.logits(select(memory, FIRST), TOKENS))


def pad(tensor: Tensor, value: float) -> Tensor:
    """Return the tensor with three more cells (or tokens) of `value` along dimension 1."""
    more = torch.full((len(tensor), 3, *tensor.shape[2:]), value, dtype=tensor.dtype)
    return torch.cat((tensor, more), dim=1)


@every_model
@pytest.mark.parametrize("garbage", [0.0, 1e4, torch.inf, torch.nan])
def test_padding_cells_never_change_an_output(name: str, garbage: float) -> None:
    model, batch = captioner(name), grids()
    dirty = torch.where(batch.mask[:, :, None], batch.features, garbage)
    wider = Records(pad(dirty, garbage), pad(batch.mask, 0), batch.grid_shapes)
    memory, padded = model.encode(batch), model.encode(wider)
    torch.testing.assert_close(model.logits(padded, TOKENS), model.logits(memory, TOKENS))
    weights = model.attention(padded, TOKENS)
    torch.testing.assert_close(weights[:, :, :6], model.attention(memory, TOKENS))
    assert weights[:, :, 6:].abs().max() == 0
    assert weights[FIRST == 1, :, 4:].abs().max() == 0
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(4, 5))


@every_model
def test_cells_of_a_grid_that_hold_no_pixels_never_change_an_output(name: str) -> None:
    model, batch = captioner(name), grids()
    batch.mask[0, [1, 4]] = False
    clean, dirty = (torch.where(batch.mask[..., None], batch.features, v) for v in (0, torch.nan))
    expected, found = (
        model.logits(model.encode(batch._replace(features=features)), TOKENS)
        for features in (clean, dirty)
    )
    assert torch.equal(found, expected)


@every_model
def test_words_that_follow_never_change_a_logit(name: str) -> None:
    """These include padding and words that are not written yet."""
    model = captioner(name)
    memory = model.encode(grids())
    expected = model.logits(memory, TOKENS)
    torch.testing.assert_close(model.logits(memory, pad(TOKENS, 0))[:, :5], expected)
    torch.testing.assert_close(model.logits(memory, pad(TOKENS, 6))[:, :5], expected)
    changed = model.logits(memory, torch.cat((TOKENS[:, :1], TOKENS[:, 1:] * 0 + 4), dim=1))
    assert (changed - expected)[:, 1:].abs().max() > 0.01


@every_model
def test_an_image_is_captioned_alike_in_any_company(name: str) -> None:
    model, batch = captioner(name), grids()
    together = model.logits(model.encode(batch), TOKENS)
    for image in range(2):
        memory = model.encode(alone(batch, image))
        found = model.logits(memory, TOKENS[image == FIRST])
        torch.testing.assert_close(found, together[image == FIRST])


@every_model
def test_captions_of_an_image_read_its_memory_as_copies_of_it(name: str) -> None:
    model = captioner(name)
    memory = model.encode(grids())
    expected = logits_of(model, grids())
    torch.testing.assert_close(model.logits(memory, TOKENS), expected)
    swapped = model.logits(select(memory, 1 - FIRST), TOKENS)
    assert (swapped - expected).abs().amax(dim=(1, 2)).min() > 0.001


@every_model
def test_word_by_word_gives_the_logits_of_the_whole(name: str) -> None:
    model = captioner(name)
    memory = model.encode(grids())
    state = select(model.start(memory), FIRST)
    expected = model.logits(memory, TOKENS)
    for place in range(TOKENS.shape[1]):
        found, state = model.step(memory, state, TOKENS[:, place])
        torch.testing.assert_close(found, expected[:, place], rtol=1e-5, atol=1e-5)


@every_model
def test_a_state_may_be_reordered_between_steps(name: str) -> None:
    model = captioner(name)
    memory = model.encode(grids())
    state = select(model.start(memory), FIRST)
    for place in range(2):
        _, state = model.step(memory, state, TOKENS[:, place])
    order = torch.tensor([1, 0, 3, 3])  # the third caption is given up
    last = TOKENS[order, 2]
    found, _ = model.step(memory, select(state, order), last)
    expected = model.logits(memory, TOKENS[order])[:, 2]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_model
def test_positions_of_cells_count_only_where_set(name: str) -> None:
    assert change_by_order(captioner(name, positions=False)) < 1e-5
    assert change_by_order(captioner(name, positions=True)) > 1e-3


def change_by_order(model: Captioner) -> float:
    """Return by how much a logit changes where the six cells of the first image are reordered."""
    batch = grids()
    features = batch.features.clone()
    features[0] = features[0, [3, 1, 5, 0, 4, 2]]
    moved = logits_of(model, batch._replace(features=features))
    return (moved - logits_of(model, batch)).abs().max().item()


@every_model
def test_every_weight_learns(name: str) -> None:
    model = captioner(name)
    logits = model.logits(model.encode(grids()), TOKENS[:, :-1])
    cross_entropy(logits.transpose(1, 2), TOKENS[:, 1:], ignore_index=0).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@every_model
def test_a_captioner_learns_to_tell_two_images_apart(name: str) -> None:
    model, batch = captioner(name, words=4), grids()
    captions = torch.tensor([[BEGIN, 4, 5, 4, END], [BEGIN, 6, 7, END, 0]])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        logits = model.logits(model.encode(batch), captions[:, :-1])
        loss = cross_entropy(logits.transpose(1, 2), captions[:, 1:], ignore_index=0)
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
    assert greedy(model, model.encode(batch)).tokens[:, 0].tolist() == captions.tolist()


@every_model
def test_half_precision_is_near(name: str) -> None:
    model = captioner(name)
    expected = logits_of(model, grids())
    with torch.autocast("cpu", torch.bfloat16):
        found = logits_of(model, grids())
        memory = model.encode(grids())
        step, state = model.step(memory, model.start(memory), torch.tensor([BEGIN, BEGIN]))
        model.step(memory, state, step.argmax(dim=1))
        weights = model.attention(memory, TOKENS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(step.float(), expected[[0, 2], 0], rtol=0.05, atol=0.1)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(4, 5))


def test_positions_by_hand() -> None:
    found = sinusoids(3, 2, 4, torch.device("cpu"))
    expected = [[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in (3, 4)]
    torch.testing.assert_close(found, torch.tensor(expected))


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Copy the weights; the key's bias, which ours lacks, becomes random."""
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat((ours.query.weight, ours.key.weight, ours.value.weight))
        )
        bias = torch.randn(ours.query.out_features)
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, bias, ours.value.bias)))
    theirs.out_proj.load_state_dict(ours.merge.state_dict())


def copy_parts(ours: nn.Module, theirs: nn.Module, pairs: dict[str, str]) -> None:
    for our_name, their_name in pairs.items():
        part: Any = ours.get_submodule(our_name)
        theirs.get_submodule(their_name).load_state_dict(part.state_dict())


def torchs_layers(
    model: TransformerCaptioner,
) -> tuple[nn.TransformerEncoder, nn.TransformerDecoder]:
    """Return torch's encoder and decoder with the weights of ours."""
    sizes = {"dim_feedforward": 64, "dropout": 0.0, "batch_first": True, "norm_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, **sizes), 2, nn.LayerNorm(16), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, **sizes), 2, nn.LayerNorm(16))
    feed = {"feed.0": "linear1", "feed.3": "linear2"}
    layer: Any
    other: Any
    for layer, other in zip(model.encoder, encoder.layers, strict=True):
        copy_attention(layer.among, other.self_attn)
        copy_parts(layer, other, feed | {"among_norm": "norm1", "feed_norm": "norm2"})
    for layer, other in zip(model.decoder, decoder.layers, strict=True):
        copy_attention(layer.before, other.self_attn)
        copy_attention(layer.across, other.multihead_attn)
        norms = {"before_norm": "norm1", "across_norm": "norm2", "feed_norm": "norm3"}
        copy_parts(layer, other, feed | norms)
    copy_parts(model, encoder, {"encoder_norm": "norm"})
    copy_parts(model, decoder, {"decoder_norm": "norm"})
    return encoder, decoder


def test_the_transformer_is_that_of_torch() -> None:
    """Torch lacks the projection, the words and their positions, which are computed here."""
    model, batch = captioner("transformer", positions=False), grids()
    assert isinstance(model, TransformerCaptioner)
    encoder, decoder = torchs_layers(model)
    projection: Any = model.cells.project[0]
    cells = (batch.features.float() @ projection.weight.T + projection.bias).clamp(min=0)
    cells = encoder(cells, src_key_padding_mask=~batch.mask)
    places = torch.tensor(
        [
            [(math.sin, math.cos)[c % 2](p / 10_000 ** (c // 2 * 2 / 16)) for c in range(16)]
            for p in range(5)
        ]
    )
    expected = decoder(
        model.words.weight[TOKENS] * 4 + places,
        cells[FIRST],
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(5),
        tgt_is_causal=True,
        memory_key_padding_mask=~batch.mask[FIRST],
    )
    expected = expected @ model.classifier.weight.T + model.classifier.bias
    found = model.logits(model.encode(batch), TOKENS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = MultiHeadAttention(16, heads=4, dropout=0.0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    copy_attention(ours, theirs)
    queries, items = torch.randn(2, 3, 16), torch.randn(2, 6, 16)
    real = grids().mask
    _, expected = theirs(queries, items, items, key_padding_mask=~real)
    keys, _ = ours.project(items)
    torch.testing.assert_close(ours.weights(queries, keys, real), expected)


def lstm(cell: nn.LSTMCell, inputs: Tensor, hidden: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next state, by torch's LSTM over a text of one word."""
    layer = nn.LSTM(cell.input_size, cell.hidden_size)
    layer.load_state_dict({f"{name}_l0": w for name, w in cell.state_dict().items()})
    _, (hidden, kept) = layer(inputs[None], (hidden[None], kept[None]))
    return hidden[0], kept[0]


def test_updn_is_that_of_the_paper() -> None:
    """Anderson et al. 2018, equations 2 to 6, for one caption and cell after the other."""
    model, batch = captioner("updn", positions=False), grids()
    assert isinstance(model, UpDnCaptioner)
    found = model.logits(model.encode(batch), TOKENS)
    looked = model.attention(model.encode(batch), TOKENS)
    projection: Any = model.cells.project[0]
    for caption, image in enumerate(FIRST.tolist()):
        features = batch.features[image, batch.mask[image]].float()
        cells = [(projection.weight @ v + projection.bias).relu() for v in features]
        mean = torch.stack(cells).mean(dim=0)
        h1 = c1 = h2 = c2 = torch.zeros(16)
        for place, token in enumerate(TOKENS[caption].tolist()):
            h1, c1 = lstm(
                model.attention_lstm, torch.cat((h2, mean, model.words.weight[token])), h1, c1
            )
            scores = [
                model.score.weight @ torch.tanh(model.key.weight @ v + model.query.weight @ h1)
                for v in cells
            ]
            weights = torch.cat(scores).softmax(dim=0)
            attended = sum(w * v for w, v in zip(weights, cells, strict=True))
            assert isinstance(attended, Tensor)
            h2, c2 = lstm(model.language_lstm, torch.cat((attended, h1)), h2, c2)
            expected = model.classifier.weight @ h2 + model.classifier.bias
            torch.testing.assert_close(found[caption, place], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(looked[caption, place, : len(cells)], weights)


def test_the_sizes_are_those_of_the_experiments() -> None:
    settings = TransformerCaptionerSettings()
    assert (settings.hidden, settings.layers, settings.heads) == (512, 6, 8)


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (TransformerCaptionerSettings, {"hidden": 0}, r"hidden .* 1; got 0"),
        (TransformerCaptionerSettings, {"layers": 0}, r"layers .* 1; got 0"),
        (TransformerCaptionerSettings, {"heads": 3}, r"hidden .* heads, 3; got 512"),
        (TransformerCaptionerSettings, {"hidden": 3, "heads": 1}, r"hidden .* got 3"),
        (TransformerCaptionerSettings, {"dropout": 1.0}, r"dropout .* got 1\.0"),
        (UpDnCaptionerSettings, {"cell_dropout": -0.1}, r"cell_dropout .* got -0\.1"),
        (UpDnCaptionerSettings, {"attention": 0}, r"attention .* 1; got 0"),
    ],
)
def test_impossible_sizes_are_refused(kind: Any, values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=rf"^{named}"):
        kind(**values)
