"""The model: shapes, padding, gradients, and that it learns."""

import pytest
import torch
from torch import nn

from clipfeat.train.examples import GroundedBatch
from clipfeat.train.models.build import build_model
from clipfeat.train.models.settings import UpDnSettings
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.vqa.task import loss_of

DIM = 6


def model_of(*, blind: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    settings = UpDnSettings(hidden=16, embedding=8, dropout=dropout)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=blind)
    return build_model(settings, norm, tokens=10, answers=4)


def batch_of(questions: int = 5) -> GroundedBatch:
    """Return questions about a 2x3 and a 2x2 grid, by turns."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 10, (questions, 4), generator=random)
    tokens[:, 3] = 0
    tokens[0, 2] = 0
    return GroundedBatch(
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


def test_shapes_and_attention_on_real_cells_only() -> None:
    batch = batch_of()
    logits, weights, _ = model_of()(*batch.inputs)
    assert (logits.shape, weights.shape) == ((5, 4), (5, 6))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))
    assert weights[batch.image_of_text == 1, 4:].abs().max() == 0


@pytest.mark.parametrize("garbage", [0.0, 1e4, torch.inf, torch.nan])
def test_padding_cells_never_change_a_logit(garbage: float) -> None:
    model, batch = model_of(), batch_of()
    dirty = torch.where(batch.mask[:, :, None], batch.features, garbage)
    expected = model(*batch.inputs).logits
    torch.testing.assert_close(model(*batch._replace(features=dirty).inputs)[0], expected)
    wider = batch._replace(features=pad(dirty, garbage), mask=pad(batch.mask, 0))
    torch.testing.assert_close(model(*wider.inputs)[0], expected)


def test_padding_tokens_never_change_a_logit() -> None:
    model, batch = model_of(), batch_of()
    longer = batch._replace(tokens=pad(batch.tokens, 0))
    torch.testing.assert_close(model(*longer.inputs)[0], model(*batch.inputs)[0])


def test_a_cell_is_told_by_its_place() -> None:
    """Exchanging two cells changes the logits, and does not once places are taken away."""
    model, batch = model_of(), batch_of()
    swapped = batch._replace(features=batch.features[:, [1, 0, 2, 3, 4, 5]])
    assert (model(*swapped.inputs)[0] - model(*batch.inputs)[0]).abs().max() > 1e-5
    nn.init.zeros_(model.get_parameter("place.project.weight"))
    assert (model(*swapped.inputs)[0] - model(*batch.inputs)[0]).abs().max() < 1e-6


def test_every_parameter_gets_a_gradient() -> None:
    model = model_of()
    loss_of(model, batch_of()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_blind_twin_has_the_same_weights_and_sees_nothing() -> None:
    seeing, blind, batch = model_of(), model_of(blind=True), batch_of()
    assert seeing.state_dict().keys() == blind.state_dict().keys()
    for name, tensor in seeing.state_dict().items():
        assert torch.equal(tensor, blind.state_dict()[name]), name
    other = batch._replace(features=torch.randn(2, 6, DIM).half())
    assert torch.equal(blind(*batch.inputs)[0], blind(*other.inputs)[0])
    assert not torch.equal(seeing(*batch.inputs)[0], seeing(*other.inputs)[0])


def test_the_loss_is_summed_over_answers() -> None:
    batch = batch_of()._replace(targets=torch.full((5, 4), 0.5))
    model = model_of()
    nn.init.zeros_(model.get_parameter("classifier.3.weight"))
    nn.init.zeros_(model.get_parameter("classifier.3.bias"))
    # at logit 0 each answer costs log 2, whatever its target
    assert loss_of(model, batch).item() == pytest.approx(4 * 0.693147, rel=1e-5)


def test_it_learns_32_examples_by_heart() -> None:
    model, batch = model_of(), batch_of(32)
    torch.manual_seed(1)
    answer = torch.randint(4, (32,))
    batch = batch._replace(
        features=torch.randn(32, 4, DIM).half(),
        mask=torch.ones(32, 4, dtype=torch.bool),
        grid_shapes=torch.full((32, 2), 2),
        image_of_text=torch.arange(32),
        targets=nn.functional.one_hot(answer, 4).float(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    assert torch.equal(model(*batch.inputs)[0].argmax(dim=1), answer)
