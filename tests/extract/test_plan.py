"""The plan and the choice of devices, both pure."""

from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.errors import ExtractUsageError, UsageError
from clipfeat.extract import ExtractConfig
from clipfeat.extract.api import choose_devices
from clipfeat.extract.planning.plan import plan_grids, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore import GridShape
from clipfeat.featstore.layout import lay_out
from clipfeat.manifests import Image, Manifest

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CELL = (32, 32)
MANIFEST = Manifest.of(Path("root"), [Image(f"i{k}", f"i{k}.jpg", 10, 10) for k in range(5)])


def test_tasks_carry_the_images_of_their_rows():
    recipe = make_recipe("square:96", CLIP, CELL)
    shapes = plan_grids(MANIFEST, recipe, CELL)
    assert set(shapes.shapes) == {GridShape(3, 3)}
    layout = lay_out(shapes, 2)
    tasks = shard_tasks(MANIFEST, layout.shards[1:], recipe)
    assert [[image.path for image in task.images] for task in tasks] == [
        ["i2.jpg", "i3.jpg"],
        ["i4.jpg"],
    ]


def test_pixels_that_do_not_fill_a_cell():
    with refuses("E-RECIPE-SIZE", "16x16", "32x32", kind=ExtractUsageError):
        plan_grids(MANIFEST, make_recipe("square:16", CLIP, CELL), CELL)


@pytest.mark.parametrize(
    ("device", "gpus", "procs", "gpu_count", "expected"),
    [
        (None, None, 1, 0, ("cpu",)),
        (None, None, 1, 4, ("cuda:0",)),
        ("cuda", None, 1, 4, ("cuda:0",)),
        (None, "8", 1, 8, tuple(f"cuda:{k}" for k in range(8))),
        (None, "0,3", 1, 4, ("cuda:0", "cuda:3")),
        (None, "3,", 1, 4, ("cuda:3",)),
        ("cpu", None, 3, 4, ("cpu", "cpu", "cpu")),
    ],
)
def test_devices(device, gpus, procs, gpu_count, expected):
    config = ExtractConfig(model="RN50", device=device, gpus=gpus, procs=procs)
    assert choose_devices(config, gpu_count) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "procs", "code"),
    [
        ("cuda", None, 1, "E-GPUS-ABSENT"),
        ("cpu", "1", 1, "E-CONFIG-CONFLICT"),
        (None, None, 2, "E-CONFIG-CONFLICT"),
    ],
)
def test_devices_refused(device, gpus, procs, code):
    with refuses(code, kind=ExtractUsageError):
        choose_devices(ExtractConfig(model="RN50", device=device, gpus=gpus, procs=procs), 0)


@pytest.mark.parametrize(
    ("gpus", "gpu_count", "code"),
    [
        ("8", 0, "E-GPUS-ABSENT"),
        ("8", 2, "E-GPUS-ABSENT"),
        ("0,3", 1, "E-GPUS-ABSENT"),
        ("0", 4, "E-GPUS-COUNT"),
        ("two", 4, "E-GPUS-SYNTAX"),
        ("-1", 4, "E-GPUS-SYNTAX"),
        ("", 4, "E-GPUS-SYNTAX"),
        ("1,1", 4, "E-GPUS-TWICE"),
    ],
)
def test_gpus_refused(gpus, gpu_count, code):
    with pytest.raises(UsageError) as refused:
        choose_devices(ExtractConfig(model="RN50", gpus=gpus), gpu_count)
    assert refused.value.code == code


def test_gpus_are_counted_among_those_that_are_listed(monkeypatch):
    """torch numbers the GPUs of the list anew, and processes inherit the list: cuda:1 is GPU 5."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    config = ExtractConfig(model="RN50", gpus="1,3")
    assert choose_devices(config, 4) == ("cuda:1", "cuda:3")
