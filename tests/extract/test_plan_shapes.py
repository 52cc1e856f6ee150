"""Each image's own grid shape, from its size alone."""

import tracemalloc
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.planning.plan import plan_grids, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore import GridShape
from clipfeat.featstore.layout import lay_out
from clipfeat.manifests import Image, Manifest

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CELL = (32, 32)


def manifest_of(*sizes):
    images = [Image(f"i{k}", f"i{k}.jpg", *size) for k, size in enumerate(sizes)]
    return Manifest.of(Path("/root"), images)


def test_images_of_one_shape_are_stored_together_whatever_their_size():
    manifest = manifest_of((640, 480), (480, 640), (1000, 300), (0, 0))
    recipe = make_recipe("pretrain384", CLIP, CELL)
    grids = plan_grids(manifest, recipe, CELL)
    wide, high = GridShape(12, 20), GridShape(20, 12)
    shapes = [grids.shapes[number] for number in grids.numbers]
    assert shapes == [wide, high, wide, high]  # unknown: as a square
    tasks = shard_tasks(manifest, lay_out(grids, 8).shards, recipe)
    assert [(str(t.shard.shape), tuple(t.shard.ids), t.picture_shape) for t in tasks] == [
        ("12x20", ("i0", "i2"), (384, 640, 3)),
        ("20x12", ("i1", "i3"), (640, 384, 3)),
    ]


def test_views_are_rows():
    recipe = make_recipe("views", CLIP, CELL)
    manifest = Manifest.of("/root", [Image("a_b", "a/b", 640, 480), Image("a_c", "a/c", 0, 0)])
    shapes = plan_grids(manifest, recipe, CELL)
    assert set(shapes.shapes) == {GridShape(36, 1)}
    (task,) = shard_tasks(manifest, lay_out(shapes, 8).shards, recipe)
    assert task.picture_shape == (36, 224, 224, 3)


def test_views_of_files_are_refused_before_the_work():
    with refuses("E-RECIPE-VIEWS", "'i0.jpg'", "36 views", kind=ExtractUsageError):
        plan_grids(manifest_of((640, 480)), make_recipe("views", CLIP, CELL), CELL)


def test_more_areas_than_a_store_holds_are_refused_before_the_work(tmp_path):
    (tmp_path / "fine.toml").write_text(
        'name = "fine"\nsteps = [{ step = "fit", height = 4096, width = 4096 },'
        '{ step = "pad", height = 4096, width = 4096 }]'
    )
    recipe = make_recipe(str(tmp_path / "fine.toml"), CLIP, (14, 14))
    manifest = manifest_of(*((1000, k) for k in range(10, 1000, 3)))
    with refuses("E-RECIPE-AREAS", "288 different areas", kind=ExtractUsageError):
        plan_grids(manifest, recipe, (14, 14))
    few = manifest_of(*((1000, k) for k in range(10, 1000, 10)))
    assert set(plan_grids(few, recipe, (14, 14)).shapes) == {GridShape(292, 292)}


@pytest.mark.slow
def test_a_quarter_of_a_million_images_share_their_shapes():
    sizes = [(500 + k % 70, 300 + k % 45) for k in range(250_000)]
    manifest = manifest_of(*sizes)
    recipe = make_recipe("aspect:384,640", CLIP, CELL)
    tracemalloc.start()
    try:
        grids = plan_grids(manifest, recipe, CELL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(grids.ids) == len(grids.numbers) == 250_000
    assert len(grids.shapes) == len(set(grids.shapes)) < 100
    # A number takes 4 bytes, and the columns of sizes 8 each while they are sorted.
    assert peak < 250_000 * 60
