"""The optimizer's groups, against rules by name and updates by torch's own optimizers."""

import contextlib
import copy

import pytest
import torch
from refused import refuses
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from clipfeat.base.errors import UsageError
from clipfeat.train.models.settings import SingleStreamSettings
from clipfeat.train.models.single_stream import SingleStreamEncoder
from clipfeat.train.optimizer import (
    WeightAverage,
    make_optimizer,
    parameter_groups,
    require_layers,
    set_rate,
)
from clipfeat.train.settings import LoopSettings

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}
TINY = SingleStreamSettings(hidden=8, layers=3, heads=2, max_grid_side=4)


def decayed(model: nn.Module) -> set[str]:
    """Return the names of the parameters in groups with weight decay."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, LoopSettings(weight_decay=0.1))
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(name_of) == len(set(grouped))
    return {name_of[p] for group in groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.Linear(3, 2), {"weight"}),
        (nn.Conv2d(3, 2, 3), {"weight"}),
        (nn.LayerNorm([2, 3]), set()),
        (nn.RMSNorm([2, 3]), set()),
        (nn.BatchNorm2d(3), set()),
        (nn.Embedding(3, 2), set()),
        (nn.LSTM(3, 2), {"weight_ih_l0", "weight_hh_l0"}),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True),
            {"in_proj_weight", "out_proj.weight"},  # its bias_k has three dimensions
        ),
        # The matrix decays, its length, which is a number of its own, does not.
        (weight_norm(nn.Linear(3, 2), dim=-1), {"parametrizations.weight.original1"}),
        (nn.ParameterDict({"unknown": nn.Parameter(torch.zeros(3))}), set()),
    ],
)
def test_matrices_and_filters_decay_and_nothing_else(module: nn.Module, names: set[str]) -> None:
    assert decayed(module) == names
    assert decayed(nn.Sequential(module)) == {f"0.{name}" for name in names}


def test_a_bert_decays_as_published_but_for_its_embeddings() -> None:
    """LXMERT's and BERT's code goes by names: no decay for "bias" and "LayerNorm.weight"."""
    encoder = SingleStreamEncoder(TINY, dim=5, tokens=30)
    by_name = {
        name
        for name, _ in encoder.named_parameters()
        if not any(part in name.lower() for part in ("bias", "layernorm", "layer_norm"))
    }
    embeddings = {
        *(f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position")),
        *("bert.embeddings.token_type_embeddings.weight", "grid.rows.weight", "grid.cols.weight"),
    }
    assert embeddings < by_name
    assert decayed(encoder) == by_name - embeddings


@pytest.mark.parametrize("name", ["adamw", "adamax"])
def test_updates_are_those_of_torch_with_groups_made_by_hand(name: str) -> None:
    torch.manual_seed(0)
    settings = LoopSettings(optimizer=name, lr=0.1, weight_decay=0.5, betas=(0.8, 0.9), eps=1e-3)
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    twin = copy.deepcopy(model)
    matrix = twin[2].weight
    rest = [p for p in twin.parameters() if p is not matrix]
    groups = [{"params": [matrix], "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    pairs = [
        (model, make_optimizer(model, settings)),
        (twin, OPTIMIZERS[name](groups, lr=0.03, betas=(0.8, 0.9), eps=1e-3)),
    ]
    set_rate(pairs[0][1], 0.03)
    for own, optimizer in pairs:
        for _ in range(3):
            own(torch.arange(5)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(*p) for p in zip(model.parameters(), twin.parameters(), strict=True))


def test_each_layer_of_a_bert_has_the_rate_of_its_depth() -> None:
    """lr * 0.5^(3 - k) for layer k of 3, the embeddings as layer 0; the grid and heads have lr."""
    model = nn.ModuleDict({"encoder": SingleStreamEncoder(TINY, dim=5, tokens=30)})
    model["answer"] = nn.Linear(8, 2)
    settings = LoopSettings(layer_decay=0.5)
    require_layers(model, settings)
    optimizer = make_optimizer(model, settings)
    set_rate(optimizer, 0.8)
    rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "encoder.bert.embeddings.": 0.1,
        "encoder.bert.encoder.layer.0.": 0.2,
        "encoder.bert.encoder.layer.1.": 0.4,
        "encoder.bert.encoder.layer.2.": 0.8,
        "encoder.grid.": 0.8,
        "answer.": 0.8,
    }
    for name, parameter in model.named_parameters():
        (rate,) = (rate for prefix, rate in expected.items() if name.startswith(prefix))
        assert rate_of[parameter] == pytest.approx(rate), name


def test_without_layer_decay_all_have_the_rate_of_the_schedule() -> None:
    optimizer = make_optimizer(SingleStreamEncoder(TINY, dim=5, tokens=30), LoopSettings())
    set_rate(optimizer, 0.3)
    assert len(optimizer.param_groups) == 2
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


def test_a_model_without_layers_refuses_layer_decay() -> None:
    require_layers(nn.Linear(2, 2), LoopSettings())
    with refuses("E-SETTINGS-LAYERS", "layer_decay is 0.9", "Linear", kind=UsageError):
        require_layers(nn.Linear(2, 2), LoopSettings(layer_decay=0.9))


def test_the_average_of_weights_is_the_sum_worked_by_hand() -> None:
    """d = min(0.5, (1 + t) / (10 + t)): 2/11, 3/12, 4/13, ..., 7/16, then 8/17 and 1/2."""
    model = nn.Linear(1, 1, bias=False)
    weights = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0, -5.0]
    decays = [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 1 / 2, 1 / 2]
    nn.init.constant_(model.weight, 8.0)
    average, expected = WeightAverage(model, 0.5), 8.0
    for step, (weight, decay) in enumerate(zip(weights, decays, strict=True), start=1):
        nn.init.constant_(model.weight, weight)
        average.update(step)
        expected = decay * expected + (1 - decay) * weight
        assert average.tensors["weight"].item() == pytest.approx(expected)


def test_an_average_is_lent_to_the_model_and_given_back() -> None:
    """Also when an evaluation fails; a weight that two modules share has one average."""
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    average = WeightAverage(nn.Sequential(first, second), 0.9)
    assert set(average.tensors) == {"0.weight", "0.bias", "1.bias"}
    nn.init.zeros_(first.weight)
    before = {name: tensor.clone() for name, tensor in average.tensors.items()}
    with contextlib.suppress(KeyboardInterrupt), average.in_model():
        assert torch.equal(second.weight, before["0.weight"])
        raise KeyboardInterrupt
    assert torch.equal(second.weight, torch.zeros(3, 3))
    assert all(torch.equal(average.tensors[name], before[name]) for name in before)


def test_rmsprop_is_torchs_with_its_defaults() -> None:
    """Alpha 0.99 and no momentum: w - lr * g / (sqrt(0.01 g^2) + eps) after the first update."""
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    optimizer = make_optimizer(model, LoopSettings(optimizer="rmsprop", lr=0.5, weight_decay=0.0))
    set_rate(optimizer, 0.25)
    model(torch.full((1, 1), -3.0)).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(start + 0.25 * 3 / (0.1 * 3 + 1e-8))
    model(torch.full((1, 1), -3.0)).sum().backward()  # its gradient doubles
    optimizer.step()
    mean = 0.99 * 0.01 * 9 + 0.01 * 36
    expected = start + 0.25 * (10 + 6 / (mean**0.5 + 1e-8))
    assert model.weight.item() == pytest.approx(expected)
