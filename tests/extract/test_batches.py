"""How shards are cut into batches: few black rows, and bits that nothing but the plan decides."""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from click.testing import CliRunner
from pictures import write_photographs

from clipfeat.cli.main import clipfeat
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones.backbone import largest_batch
from clipfeat.extract.estimate import estimate
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.extract.planning.plan import CHUNK, Batching
from clipfeat.featstore import GridShape
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.writing.writer import SHARD_RECORDS
from clipfeat.manifests import folder_manifest

# Bytes that 4 and 8 images of RN50 at 448x448 take at their peak, and the free memory of GPUs.
PEAKS = {4: 500_000_000, 8: 900_000_000}
FREE = [5e9, 11e9, 24e9, 40e9, 80e9]

pytestmark = pytest.mark.usefixtures("one_backbone")


def totals(counts, batching):
    """Return images and rows of a store with so many images of each grid shape."""
    shapes = {
        f"{number:02}-{image:05}": GridShape(1, 1 + number)
        for number, count in enumerate(counts)
        for image in range(count)
    }
    rows = [
        batching.rows(len(shard.ids)) for shard in lay_out(Grids.of(shapes), SHARD_RECORDS).shards
    ]
    return sum(counts), sum(map(sum, rows))


@pytest.mark.parametrize("free", FREE)
def test_a_gpu_computes_at_most_a_tenth_more_rows_than_images(free):
    batching = Batching.of(largest_batch(int(free), PEAKS), 1, SHARD_RECORDS, on_cpu=False)
    assert SHARD_RECORDS % batching.max_rows == 0
    rng = np.random.default_rng(0)
    stores = [(n,) for n in (1, 5, 127, 128, 129, 1000, 5000)]
    stores += [tuple(rng.integers(1, 700, shapes).tolist()) for shapes in (3, 17, 60)]
    for counts in stores:
        images, rows = totals(counts, batching)
        assert images <= rows <= 1.1 * images


def test_every_image_has_a_row_and_no_batch_is_larger_than_allowed():
    for most, records in product((1, 2, 7, 12, 64, 100, 128), range(1, 300)):
        rows = Batching(most, None).rows(records)
        assert sum(rows[:-1]) < records <= sum(rows) <= records + records // 10
        assert max(rows) <= most
        assert len(rows) <= records // most + most.bit_length() + 1
        on_cpu = Batching.of(most, 1, 512, on_cpu=True).rows(records)
        assert records <= sum(on_cpu) < records + CHUNK
        assert all(each % CHUNK == 0 for each in on_cpu)


def test_a_worked_example():
    assert Batching.of(256, 1, 128, on_cpu=False).rows(128) == (128,)  # was one batch of 256
    assert Batching.of(256, 1, 128, on_cpu=False).rows(120) == (128,)  # 8 black rows of 120
    assert Batching.of(256, 1, 128, on_cpu=False).rows(100) == (64, 32, 4)
    assert Batching.of(48, 1, 128, on_cpu=False).rows(128) == (48, 48, 32)  # as the user has asked
    assert Batching.of(3, 1, 128, on_cpu=True).rows(10) == (4, 4, 4)
    assert Batching.of(512, 1, 128, on_cpu=True).rows(128) == (128,)  # 64 cores
    assert Batching.of(8, 1, 128, on_cpu=True).rows(0) == (4,)  # all have moved to other shards


def test_a_record_of_36_views_is_not_padded_on_a_cpu():
    """36 views are nine whole chunks; a batch of one record was padded with three black ones."""
    assert Batching.of(16, 36, 128, on_cpu=True).rows(5) == (1, 1, 1, 1, 1)
    assert Batching.of(256, 36, 128, on_cpu=False).rows(128) == (7,) * 18 + (2,)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), 21)


def test_the_backbone_is_given_the_rows_that_the_dry_run_counts(images, tmp_path, monkeypatch):
    given = []
    compute = FeatureStream.compute

    def counted(self, pixels):
        given.append(len(pixels))
        return compute(self, pixels)

    monkeypatch.setattr(FeatureStream, "compute", counted)
    arguments = ["extract", "--images", str(images), "--out", str(tmp_path / "s"), "--json"]
    arguments += ["--model", "RN50", "--pretrained", "none", "--recipe", "square:64"]
    arguments += ["--device", "cpu", "--batch-size", "4", "--shard-size", "9", "--decoders", "1"]
    found = CliRunner().invoke(clipfeat, [*arguments, "--dry-run"], catch_exceptions=False)
    given.clear()
    done = CliRunner().invoke(clipfeat, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["images"] == 21
    # Shards of 9, 9 and 3 in chunks of 4: 4 + 4 + 4, the same again, and 4.
    assert given == [4, 4, 4, 4, 4, 4, 4]
    assert json.loads(found.stdout)["rows"] == sum(given)


@pytest.mark.slow
def test_a_dry_run_of_an_update_counts_what_the_update_computes(images, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    for file in sorted(images.iterdir())[:10]:
        shutil.copy2(file, part)
    config = ExtractConfig(model="RN50", pretrained="none", recipe="square:64", device="cpu",
                           batch_size=4, shard_size=5, decoders=1)  # fmt: skip
    extract_images(folder_manifest(part), tmp_path / "s", config)
    config = replace(config, shard_size=None)
    for folder, count, shards, rows in ((images, 11, 3, 20), (part, 0, 0, 0)):
        manifest = folder_manifest(folder)
        found = estimate(manifest, tmp_path / "s", config)
        # 11 more in shards of 5, as the store has them: 5, 5 and 1, in chunks of 4.
        assert (found.images, found.shards, found.rows) == (count, shards, rows)
