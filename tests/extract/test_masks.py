"""From files to stores whose grids are padded, ragged or made of views."""

import numpy as np
import pytest
from pictures import photograph

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.pixels.inspection import CMYK, SEVERAL_FRAMES
from clipfeat.extract.planning.recipe import Recipe
from clipfeat.featstore.audit.verify import verify
from clipfeat.manifests import Image, Manifest, folder_manifest

CONFIG = {
    "model": "RN50",
    "pretrained": "none",
    "device": "cpu",
    "batch_size": 4,
    "shard_size": 8,
    "decoders": 2,
}
pytestmark = pytest.mark.usefixtures("one_backbone")
SIZES = {"wide": (90, 40), "high": (40, 90), "square": (64, 64), "line": (400, 20)}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        photograph(seed, *size).save(tmp_path / "images" / f"{name}.jpg")
    return folder_manifest(tmp_path / "images")


def report_of(manifest, out, recipe, **changes):
    config = ExtractConfig(**{**CONFIG, "recipe": str(recipe), **changes})
    return extract_images(manifest, out, config)


def extract(manifest, out, recipe, **changes):
    return report_of(manifest, out, recipe, **changes).store


def test_padded_images_have_masks(images, tmp_path):
    (tmp_path / "own.toml").write_text(
        'name = "own"\n'
        'steps = [{ step = "shortest-maskrcnn", side = 64, longest = 128, '
        'interpolation = "bilinear" }, { step = "rgb" },\n'
        '         { step = "pad", height = 64, width = 128, turn = true, odd = "first" }]'
    )
    store = extract(images, tmp_path / "s", tmp_path / "own.toml")
    # 400 x 20 becomes 120 x 6 (6.4 rounded): black above it for 29 pixels, left of it for 4.
    masks = {
        "wide": [[1, 1, 1, 1]] * 2,  # 128 x 56
        "high": [[1, 1]] * 4,
        "square": [[0, 0], [1, 1], [1, 1], [0, 0]],
        "line": [[1, 1, 1, 1]] * 2,  # rows 29 to 34 touch both
    }
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(store.mask(image_id), np.array(mask, bool))
        assert store[image_id].shape == (*store.mask(image_id).shape, 2048)
    assert store.metadata.areas == ("2x2+1+0",)
    assert Recipe.from_json(store.identity.recipe).name == "own"
    assert verify(store.path) == []


def test_ragged_grids_are_in_separate_arrays(images, tmp_path):
    store = extract(images, tmp_path / "s", "aspect:64,128")
    shapes = {image_id: store[image_id].shape[:2] for image_id in SIZES}
    # 90 x 40 at 128 / 90 is 128 x 56.9; 400 x 20 at 128 / 400 is 128 x 6.4.
    assert shapes == {"wide": (2, 4), "high": (4, 2), "square": (2, 2), "line": (1, 4)}
    batch = store.read(["square", "wide", "line"])
    assert batch.mask.sum(axis=1).tolist() == [4, 8, 4]
    assert all(store.mask(image_id).all() for image_id in SIZES)


@pytest.mark.slow
def test_views_of_a_panorama_are_one_record(tmp_path):
    folder = tmp_path / "images" / "scan" / "viewpoint"
    folder.mkdir(parents=True)
    for view in range(36):
        photograph(view, 64, 48).save(folder / f"{view}.jpg")
    images = [Image("scan_viewpoint", "scan/viewpoint", 64, 48)]
    manifest = Manifest.of(tmp_path / "images", images)
    store = extract(manifest, tmp_path / "s", "views", model="ViT-B-32")
    assert store["scan_viewpoint"].shape == (36, 1, 512)
    assert len(np.unique(store["scan_viewpoint"][:, 0, :4], axis=0)) == 36
    assert store.mask("scan_viewpoint").all()


def test_an_image_that_is_not_what_the_manifest_says(images, tmp_path):
    turned = [
        image._replace(width=40, height=90) if image.image_id == "wide" else image
        for image in images.images
    ]
    store = extract(Manifest.of(images.root, turned), tmp_path / "s", "aspect:64,128")
    row = next(row for row in store.index if row.image_id == "wide")
    assert (row.status, row.width, row.height) == ("failed", 90, 40)
    assert "make the manifest again" in row.reason


def test_a_remark_is_kept_beside_a_record_and_counted_at_the_end(images, tmp_path):
    frames = [photograph(seed, 64, 64) for seed in range(2)]
    folder = tmp_path / "images"
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    inks = photograph(3, 64, 64).convert("CMYK")
    inks.save(folder / "inks.jpg")
    inks.save(folder / "both.tif", save_all=True, append_images=[inks])
    report = report_of(folder_manifest(folder), tmp_path / "s", "square:64")
    store = report.store
    remarks = {row.image_id: row.reason for row in store.index if row.reason}
    assert remarks == {"moving": SEVERAL_FRAMES, "inks": CMYK, "both": f"{SEVERAL_FRAMES}; {CMYK}"}
    assert store["moving"].shape == (2, 2, 2048)
    assert verify(store.path) == []
    assert [(each["images"], each["remark"]) for each in report.remarks] == [
        (2, CMYK),
        (2, SEVERAL_FRAMES),
    ]
    line = f"extracted, with a remark: 2: {CMYK} (such as both); 2: {SEVERAL_FRAMES} (such as both)"
    assert report.text().endswith(line)
