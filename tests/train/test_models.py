"""The models: shapes, padding, positions, gradients, and that they learn."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from clipfeat.train.models.layers import AnswerBatch
from clipfeat.train.models.settings import (
    AttentiveProbeSettings,
    LinearProbeSettings,
    McanSettings,
    ModelSettings,
    MovieMcanSettings,
    PythiaSettings,
    SingleStreamSettings,
    UpDnLargeSettings,
    UpDnSettings,
)
from clipfeat.train.models.single_stream import GridEmbedding, SingleStream
from clipfeat.train.models.start import build_model, word_embedding
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.tasks.answering import answering_loss
from clipfeat.train.tasks.vqa import soft_score_loss

DIM = 6
loss_of = functools.partial(answering_loss, of_answers=soft_score_loss)
TINY: dict[str, ModelSettings] = {
    "updn": UpDnSettings(hidden=16, embedding=8, dropout=0.0),
    "updn_large": UpDnLargeSettings(hidden=16, embedding=8, attention_dropout=0.0, dropout=0.0),
    "pythia": PythiaSettings(
        embedding=8, hidden=16, joint=32, text_head=8, image_head=32, dropout=0.0
    ),
    "mcan": McanSettings(
        embedding=8, hidden=16, layers=2, heads=2, reduction=8, joint=16, dropout=0.0
    ),
    "movie_mcan": MovieMcanSettings(
        embedding=8, hidden=16, layers=1, heads=2, movie_layers=2, joint=16, dropout=0.0
    ),
    "attentive_probe": AttentiveProbeSettings(
        embedding=8, queries=3, hidden=16, heads=2, dropout=0.0
    ),
    "linear_probe": LinearProbeSettings(embedding=8),
}
SINGLE_STREAM = SingleStreamSettings(hidden=16, layers=2, heads=2, max_grid_side=3, dropout=0.0)
every_model = pytest.mark.parametrize("name", [*TINY, "single_stream"])
# A linear probe reads the mean cell, and adds what it says to what the text says.
every_model_that_attends = pytest.mark.parametrize(
    "name", [name for name in (*TINY, "single_stream") if name != "linear_probe"]
)
every_model_of_words = pytest.mark.parametrize("name", TINY)


def model_of(name: str, *, positions: bool = True, blind: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = TINY.get(name, SINGLE_STREAM)
    if hasattr(settings, "positions"):
        settings = dataclasses.replace(settings, positions=positions)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=blind)
    model = build_model(settings, norm, tokens=10, answers=4)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):  # as in training; at zero they would hide leaks
            nn.init.normal_(module.bias, std=0.5)
    if isinstance(model, SingleStream):  # begins with positions that hardly differ
        grid = model.encoder.grid
        assert isinstance(grid, GridEmbedding)
        for embedding in (grid.rows, grid.cols):
            nn.init.normal_(embedding.weight, std=0.5)
    return model


def batch_of(questions: int = 5) -> AnswerBatch:
    """Return questions about a 2x3 and a 2x2 grid, by turns."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 10, (questions, 4), generator=random)
    tokens[:, 3] = 0
    tokens[0, 2] = 0
    return AnswerBatch(
        features=torch.randn(2, 6, DIM, generator=random).half(),
        mask=torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
        grid_shapes=torch.tensor([[2, 3], [2, 2]]),
        image_of_text=torch.arange(questions) % 2,
        tokens=tokens,
        targets=torch.rand(questions, 4, generator=random),
    )


def pad(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """Return the tensor with three more cells (or tokens) of `value` along dimension 1."""
    more = torch.full((len(tensor), 3, *tensor.shape[2:]), value, dtype=tensor.dtype)
    return torch.cat((tensor, more), dim=1)


def all_logits(model: torch.nn.Module, batch: AnswerBatch) -> torch.Tensor:
    """Return the logits of every head, side by side."""
    outputs = model(batch)
    return torch.cat((outputs.logits, *outputs.auxiliary_logits), dim=1)


def change_by_order(model: torch.nn.Module, order: list[int]) -> float:
    """Return by how much a logit changes where the six cells of the first image are reordered."""
    batch = batch_of()
    features = batch.features.clone()
    features[0] = features[0, order]
    moved = all_logits(model, batch._replace(features=features))
    return (moved - all_logits(model, batch)).abs().max().item()


def require_learned(model: torch.nn.Module, batch: AnswerBatch, answer: torch.Tensor) -> None:
    """Fail unless at most 150 steps on the batch teach the model its answers."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(15):
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        if torch.equal(model(batch)[0].argmax(dim=1), answer):
            return
    pytest.fail("not learned in 150 steps")


@every_model
def test_shapes_and_attention_on_real_cells_only(name: str) -> None:
    batch = batch_of()
    logits, weights, auxiliary = model_of(name)(batch)
    assert (logits.shape, weights.shape) == ((5, 4), (5, 6))
    assert [extra.shape for extra in auxiliary] == [(5, 4)] * (2 if name == "movie_mcan" else 0)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))
    assert weights[batch.image_of_text == 1, 4:].abs().max() == 0


@every_model
@pytest.mark.parametrize("garbage", [0.0, 1e4, torch.inf, torch.nan])
def test_padding_cells_never_change_a_logit(name: str, garbage: float) -> None:
    model, batch = model_of(name), batch_of()
    dirty = torch.where(batch.mask[:, :, None], batch.features, garbage)
    expected = all_logits(model, batch)
    torch.testing.assert_close(all_logits(model, batch._replace(features=dirty)), expected)
    wider = batch._replace(features=pad(dirty, garbage), mask=pad(batch.mask, 0))
    torch.testing.assert_close(all_logits(model, wider), expected)


@every_model
def test_cells_of_a_grid_that_hold_no_pixels_never_change_a_logit(name: str) -> None:
    """A letterboxed image masks cells inside its grid, here the middle column."""
    model, batch = model_of(name), batch_of()
    batch.mask[0, [1, 4]] = False
    dirty = torch.where(batch.mask[:, :, None], batch.features, torch.nan)
    clean = torch.where(batch.mask[:, :, None], batch.features, 0.0)
    expected = all_logits(model, batch._replace(features=clean))
    assert torch.equal(all_logits(model, batch._replace(features=dirty)), expected)


@every_model
def test_padding_tokens_never_change_a_logit(name: str) -> None:
    model, batch = model_of(name), batch_of()
    longer = batch._replace(tokens=pad(batch.tokens, 0))
    torch.testing.assert_close(all_logits(model, longer), all_logits(model, batch))


@every_model
def test_a_text_is_answered_alike_in_any_company(name: str) -> None:
    """Alone, its batch has one image, a smaller map and fewer padding cells."""
    model, batch = model_of(name), batch_of()
    together = all_logits(model, batch)
    for text, image in enumerate(batch.image_of_text.tolist()):
        cells = int(batch.mask[image].sum())
        alone = AnswerBatch(
            features=batch.features[image : image + 1, :cells],
            mask=batch.mask[image : image + 1, :cells],
            grid_shapes=batch.grid_shapes[image : image + 1],
            image_of_text=torch.zeros(1, dtype=torch.int64),
            tokens=batch.tokens[text : text + 1],
            targets=batch.targets[text : text + 1],
        )
        torch.testing.assert_close(all_logits(model, alone), together[text : text + 1])


@every_model_that_attends
def test_the_position_of_a_cell_counts(name: str) -> None:
    """Exchanging two cells changes the logits."""
    assert change_by_order(model_of(name), [1, 0, 2, 3, 4, 5]) > 1e-5


@pytest.mark.parametrize("name", ["updn", "pythia", "mcan", "attentive_probe", "linear_probe"])
def test_without_positions_the_order_of_cells_does_not_count(name: str) -> None:
    assert change_by_order(model_of(name, positions=False), [5, 3, 1, 0, 2, 4]) < 1e-5


def test_movie_sees_the_arrangement_of_cells_even_without_positions() -> None:
    model = model_of("movie_mcan", positions=False)
    assert change_by_order(model, [5, 3, 1, 0, 2, 4]) > 1e-4


@every_model_of_words
@pytest.mark.parametrize("positions", [True, False])
def test_every_parameter_gets_a_gradient(name: str, positions: bool) -> None:  # noqa: FBT001
    model = model_of(name, positions=positions)
    loss_of(model, batch_of(32)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 1e-7, parameter_name


def test_every_parameter_of_the_single_stream_gets_a_gradient() -> None:
    """Except the bias of keys, which adds one number to all scores of a query."""
    model = model_of("single_stream")
    loss_of(model, batch_of(32)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad.abs().sum() > 1e-7, parameter_name


@every_model
def test_the_blind_twin_has_the_same_weights_and_sees_nothing(name: str) -> None:
    seeing, blind, batch = model_of(name), model_of(name, blind=True), batch_of()
    assert seeing.state_dict().keys() == blind.state_dict().keys()
    for key, tensor in seeing.state_dict().items():
        assert torch.equal(tensor, blind.state_dict()[key]), key
    other = batch._replace(features=torch.randn(2, 6, DIM).half())
    assert torch.equal(all_logits(blind, batch), all_logits(blind, other))
    assert not torch.equal(all_logits(seeing, batch), all_logits(seeing, other))


@every_model_of_words
def test_word_vectors_can_be_filled(name: str) -> None:
    model, batch = model_of(name), batch_of()
    before = all_logits(model, batch)
    word_embedding(model).fill(torch.arange(8), torch.ones(8, 8))
    assert not torch.equal(all_logits(model, batch), before)
    assert len(model.state_dict()) == len({t.data_ptr() for t in model.state_dict().values()})


@every_model
def test_two_steps_on_a_cpu_are_equal_bit_for_bit(name: str) -> None:
    gradients = []
    for _ in range(2):
        model = model_of(name)
        loss_of(model, batch_of(16)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@every_model
def test_half_precision_gives_finite_gradients_of_about_the_same_loss(name: str) -> None:
    model, batch = model_of(name), batch_of()
    dirty = torch.where(batch.mask[:, :, None], batch.features, torch.nan)
    whole = loss_of(model, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch)
        loss = loss_of(model, batch._replace(features=dirty))
    loss.backward()
    assert loss.item() == pytest.approx(whole, rel=0.05)
    assert outputs.attention.dtype == torch.float32
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


def test_the_loss_is_summed_over_answers() -> None:
    batch = batch_of()._replace(targets=torch.full((5, 4), 0.5))
    model = model_of("updn")
    nn.init.zeros_(model.get_parameter("classifier.3.weight"))
    nn.init.zeros_(model.get_parameter("classifier.3.bias"))
    # at logit 0 each answer costs log 2, whatever its target
    assert loss_of(model, batch).item() == pytest.approx(4 * 0.693147, rel=1e-5)


@every_model_that_attends
def test_it_memorises_32_examples(name: str) -> None:
    model, batch = model_of(name), batch_of(32)
    torch.manual_seed(1)
    answer = torch.randint(4, (32,))
    batch = batch._replace(
        features=torch.randn(32, 4, DIM).half(),
        mask=torch.ones(32, 4, dtype=torch.bool),
        grid_shapes=torch.full((32, 2), 2),
        image_of_text=torch.arange(32),
        targets=nn.functional.one_hot(answer, 4).float(),
    )
    require_learned(model, batch, answer)


def matches(kinds: int = 4) -> tuple[AnswerBatch, torch.Tensor]:
    """Return every kind of thing with the word of every kind, and whether the word is right.

    A thing is in one cell of a 2x2 grid, each time in another.
    """
    kind, word = torch.cartesian_prod(torch.arange(kinds), torch.arange(kinds)).unbind(dim=1)
    texts = torch.arange(len(kind))
    features = torch.zeros(len(kind), 4, DIM)
    features[texts, texts % 4, kind] = 3.0
    answer = (kind == word).long()
    batch = AnswerBatch(
        features=features.half(),
        mask=torch.ones(len(kind), 4, dtype=torch.bool),
        grid_shapes=torch.full((len(kind), 2), 2),
        image_of_text=texts,
        tokens=word[:, None] + 2,
        targets=nn.functional.one_hot(answer, 4).float(),
    )
    return batch, answer


def test_the_attentive_probe_learns_whether_a_word_is_right() -> None:
    model, (batch, answer) = model_of("attentive_probe"), matches()
    require_learned(model, batch, answer)


def test_the_linear_probe_cannot_learn_whether_a_word_is_right() -> None:
    """Of a sum of image and text, two right pairs say together what two wrong ones do."""
    model, (batch, _) = model_of("linear_probe"), matches(kinds=2)
    first, second, third, fourth = model(batch).logits  # 0 and 3 are right, 1 and 2 are wrong
    torch.testing.assert_close(first + fourth, second + third)
