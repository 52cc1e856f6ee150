"""The table [decoding] of a captioning run: diverse beams and nucleus, and what a request changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from caption_world import make_world, name_of, train_world
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.models.decoding import beam_search, sample
from clipfeat.train.records import RecordReader
from clipfeat.train.tasks.captioning.model import decoder, load_stage
from clipfeat.train.tasks.captioning.predict import CaptionRequest, requested
from clipfeat.train.tasks.settings import DecodingSettings

World = tuple[Path, Path]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_both_ways_are_those_of_the_decoders(world: World, tmp_path: Path) -> None:
    train_world(world, tmp_path / "run", "epochs=2", "decoding.nucleus=0.9", stages=("xe",))
    trained = load_stage(tmp_path / "run" / "xe")
    assert trained.settings.decoding.nucleus == 0.9
    model = trained.model.eval()
    records = RecordReader(FeatureStore.open(world[0]), CPU).read([name_of(41, "test")])
    memory = model.encode(records)

    def written(**settings: Any) -> torch.Tensor:
        decode = decoder(DecodingSettings(**settings), captions=3, seed=7, device=CPU)
        return decode(model, memory).tokens

    generator = torch.Generator().manual_seed(7)
    rules: dict[str, Any] = {"nucleus": 0.9, "temperature": 2.0}
    drawn = sample(model, memory, samples=3, generator=generator, **rules)
    assert torch.equal(written(**rules), drawn.tokens)
    beams: dict[str, Any] = {"beams": 4, "groups": 2, "diversity": 3.0}
    assert torch.equal(written(**beams), beam_search(model, memory, **beams).tokens)
    # The same seed draws the same captions of a split.
    first = (tmp_path / "run" / "xe" / "predictions.json").read_bytes()
    changes = ("epochs=2", "decoding.nucleus=0.9")
    train_world(world, tmp_path / "again", *changes, stages=("xe",))
    assert (tmp_path / "again" / "xe" / "predictions.json").read_bytes() == first


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beams": 3, "groups": 2}, "groups must divide 3 beams; got 2"),
        ({"beams": 3, "nucleus": 0.9}, "set beams to 1, or nucleus to 0"),
        ({"nucleus": 1.5}, "nucleus must be a share"),
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"diversity": -1.0}, "diversity must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], named: str) -> None:
    code = "E-DECODING-RANGE" if "beams" in settings else "E-SETTINGS-RANGE"
    with refuses(code, named, kind=UsageError):
        DecodingSettings(**settings)


def test_a_request_comes_before_the_settings_of_the_run() -> None:
    drawn = DecodingSettings(nucleus=0.9, temperature=2.0)
    diverse = DecodingSettings(beams=4, groups=2, diversity=1.0)
    assert requested(drawn, CaptionRequest(captions=5)) == drawn
    assert requested(drawn, CaptionRequest(beam=3)).nucleus == 0
    assert requested(drawn, CaptionRequest(nucleus=0.5)).temperature == 2
    assert requested(diverse, CaptionRequest(captions=6)).beams == 6
    assert requested(diverse, CaptionRequest(captions=3)) == diverse
    one = requested(diverse, CaptionRequest(nucleus=1.0, captions=3))
    assert (one.beams, one.groups, one.nucleus) == (1, 1, 1)
