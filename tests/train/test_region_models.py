"""Regions in every model: boxes count, padding does not, and a blind model sees none."""

import dataclasses

import captioners
import pytest
import torch
from test_caption_models import FIRST, TOKENS
from test_models import DIM, SINGLE_STREAM, TINY, all_logits, loss_of
from torch import nn

from clipfeat.train.data.caption_vocabulary import SPECIAL_TOKENS
from clipfeat.train.models.captioner import Captioner, select
from clipfeat.train.models.layers import AnswerBatch
from clipfeat.train.models.start import build_model
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.records import Records
from clipfeat.train.tasks.captioning.model import build_captioner
from clipfeat.train.tasks.pretraining.examples import PretrainBatch
from clipfeat.train.tasks.pretraining.model import Pretrainer
from clipfeat.train.tasks.settings import PretrainSettings

CAPTIONERS = {f"caption_{name}": settings for name, settings in captioners.TINY.items()}
ANSWERING = [name for name in (*TINY, "single_stream") if name != "movie_mcan"]
every_model = pytest.mark.parametrize("name", [*ANSWERING, *CAPTIONERS, "pretrain"])
GARBAGE = pytest.mark.parametrize("garbage", [0.0, 1e4, torch.inf, torch.nan])
COUNTS = (5, 3, 1)  # regions of each image
TEXTS = torch.tensor([[2, 3, 4, 0], [5, 6, 0, 0], [2, 7, 8, 0]])  # one about each image


class Regions(nn.Module):
    """Any of the models, read in one way: the numbers that it computes of some records."""

    def __init__(self, name: str, *, positions: bool = True, blind: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        statistics = ChannelStatistics(torch.zeros(DIM), torch.ones(DIM))
        norm = FeatureNorm(statistics, blind=blind, regions=True)
        if name in CAPTIONERS:
            settings = dataclasses.replace(CAPTIONERS[name], positions=positions)
            self.model = build_captioner(settings, norm, words=SPECIAL_TOKENS + captioners.WORDS)
        elif name == "pretrain":
            settings = PretrainSettings(model=SINGLE_STREAM)
            self.model = Pretrainer(settings, norm, tokens=10, answers=4)
        else:
            settings = TINY.get(name, SINGLE_STREAM)
            if hasattr(settings, "positions"):
                settings = dataclasses.replace(settings, positions=positions)
            self.model = build_model(settings, norm, tokens=10, answers=4)
        self.model.eval()
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):  # as in training; at zero they would hide leaks
                nn.init.normal_(module.bias, std=0.5)

    def forward(self, records: Records) -> torch.Tensor:
        images = len(records.mask)
        if isinstance(self.model, Captioner):
            first = FIRST % images
            return self.model(records, lambda m, memory: m.logits(select(memory, first), TOKENS))
        tokens = TEXTS
        if isinstance(self.model, Pretrainer):
            outputs = self.model(
                PretrainBatch(
                    features=records.features,
                    mask=records.mask,
                    places=records.boxes,
                    hidden=torch.zeros_like(records.mask),
                    image_of_text=torch.arange(images),
                    tokens=tokens,
                    masked=torch.tensor([1]),
                    pieces=tokens[:1, 1],
                    matched=torch.ones(images),
                    answers=torch.zeros(images, dtype=torch.int64),
                )
            )
            return torch.cat((outputs.words.flatten(), outputs.matching))
        batch = AnswerBatch(
            **records._asdict(),
            image_of_text=torch.arange(images),
            tokens=tokens,
            targets=torch.zeros(images, 4),
        )
        return all_logits(self.model, batch)


def regions(counts: tuple[int, ...] = COUNTS, seed: int = 0) -> Records:
    """Return images of some regions, with zeros in the padding."""
    random = torch.Generator().manual_seed(seed)
    most = max(counts)
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    features = torch.randn(len(counts), most, DIM, generator=random) * mask[..., None]
    boxes = torch.rand(len(counts), most, 5, generator=random) * mask[..., None]
    shapes = torch.tensor([[count, 1] for count in counts])
    return Records(features.half(), mask, shapes, boxes)


def padded(records: Records, garbage: float, more: int = 0) -> Records:
    """Return records with `garbage` in the padding, of which there are `more` cells."""

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        dirty = torch.where(records.mask[..., None], tensor, garbage)
        return torch.cat((dirty, dirty.new_full((len(dirty), more, dirty.shape[2]), garbage)), 1)

    mask = torch.cat((records.mask, torch.zeros(len(records.mask), more, dtype=torch.bool)), 1)
    return Records(fill(records.features), mask, records.grid_shapes, fill(records.boxes))


@every_model
@GARBAGE
def test_padding_regions_never_change_an_output(name: str, garbage: float) -> None:
    model, records = Regions(name), regions()
    expected = model(records)
    assert torch.equal(model(padded(records, garbage)), expected)
    torch.testing.assert_close(model(padded(records, garbage, more=3)), expected)


@pytest.mark.parametrize("name", ANSWERING)
def test_an_image_is_read_alike_in_any_company(name: str) -> None:
    model, records = Regions(name), regions()
    together = model(records)
    for image, count in enumerate(COUNTS):
        one, cells = slice(image, image + 1), slice(count)
        alone = AnswerBatch(
            features=records.features[one, cells],
            mask=records.mask[one, cells],
            grid_shapes=records.grid_shapes[one],
            image_of_text=torch.zeros(1, dtype=torch.int64),
            tokens=TEXTS[one],
            targets=torch.zeros(1, 4),
            boxes=records.boxes[one, cells],
        )
        torch.testing.assert_close(all_logits(model.model, alone), together[one])


@every_model
@pytest.mark.parametrize("positions", [True, False])
def test_boxes_count_where_a_model_reads_positions(name: str, positions: bool) -> None:  # noqa: FBT001
    model, records = Regions(name, positions=positions), regions()
    moved = records._replace(boxes=regions(seed=1).boxes)
    change = (model(moved) - model(records)).abs().max()
    if name in ("single_stream", "pretrain") or (positions and name != "linear_probe"):
        assert change > 1e-4
    else:
        assert change == 0


@every_model
def test_the_order_of_regions_does_not_count(name: str) -> None:
    model, records = Regions(name), regions((5, 5, 5))
    order = [3, 0, 4, 1, 2]
    turned = records._replace(features=records.features[:, order], boxes=records.boxes[:, order])
    torch.testing.assert_close(model(turned), model(records))


@every_model
def test_a_blind_model_sees_no_region(name: str) -> None:
    """Not their features, not their boxes, and not how many there are."""
    seeing, blind = Regions(name), Regions(name, blind=True)
    assert seeing.state_dict().keys() == blind.state_dict().keys()
    expected = blind(regions())
    torch.testing.assert_close(blind(regions((2, 5, 4), seed=1)), expected)
    same = regions(seed=1)
    assert torch.equal(blind(same), expected)
    assert not torch.allclose(seeing(regions((2, 5, 4), seed=1)), seeing(regions()))


@pytest.mark.parametrize("name", ANSWERING)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = Regions(name).train().model
    random = torch.Generator().manual_seed(0)
    batch = AnswerBatch(
        **regions((5,) * 32)._asdict(),
        image_of_text=torch.arange(32),
        tokens=torch.randint(2, 10, (32, 4), generator=random),
        targets=torch.rand(32, 4, generator=random),
    )
    loss_of(model, batch).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad.abs().sum() > 1e-7, parameter_name


def test_a_box_is_projected_as_in_vilbert() -> None:
    model = Regions("mcan").model
    boxes = torch.rand(2, 3, 5)
    cells, shapes = torch.zeros(2, 3, 16), torch.tensor([[3, 1]] * 2)
    weight, bias = (model.get_parameter(f"position.project.{name}") for name in ("weight", "bias"))
    found = model.get_submodule("position")(cells, shapes, boxes)
    torch.testing.assert_close(found, boxes @ weight.T + bias)
