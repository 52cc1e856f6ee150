"""Pictures of runs: people look at their content; that they are drawn is tested here."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photograph
from PIL import Image
from refused import refuses
from region_world import write_regions

from clipfeat.base.errors import UsageError
from clipfeat.train.attention_maps import (
    draw_answer,
    draw_words,
    grid_colors,
    read_image,
    show_lit,
)
from clipfeat.train.figures import draw_curves, new_figure, save, smooth
from clipfeat.train.region_maps import RegionMap

RNG = np.random.default_rng(0)
CARD = {
    "task": "vqa",
    "settings": {},
    "store_digest": "",
    "features": {},
    "data_files": {},
    "store": "",
    "data": "",
}
LOSSES = [{"step": s, "epoch": 1 + s // 50, "loss": 9 * 0.95**s, "lr": 1e-3} for s in range(1, 101)]
SCORES = [{"step": 50 * e, "epoch": e, "score": 30.0 + e, "examples_per_s": 9} for e in (1, 2)]


def run_with(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "settings.json").write_text(json.dumps(CARD))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 101, "lo')  # a crash cut it short
    return folder


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        opened.load()
        return opened.size


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([*LOSSES, *SCORES], id="a whole run"),
        pytest.param([*LOSSES[:1], *SCORES[:1]], id="one epoch of one update"),
        pytest.param(SCORES, id="evaluations alone"),
        pytest.param(LOSSES, id="killed in its first epoch"),
        pytest.param([], id="nothing yet"),
        pytest.param([line | {"loss": 0.0} for line in LOSSES], id="a loss that has no logarithm"),
    ],
)
def test_curves_are_drawn_for_any_metrics(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    draw_curves(run_with(tmp_path, lines), tmp_path / "curves.png")
    assert size_of(tmp_path / "curves.png") == (792, 704)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("settings.json", "metrics.jsonl", "curves.png")
    }


def test_curves_of_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        draw_curves(tmp_path, tmp_path / "curves.png")


def test_the_smooth_line_stays_on_a_constant_and_takes_the_noise_away() -> None:
    np.testing.assert_allclose(smooth(np.full(1000, 2.0)), 2)
    assert smooth(RNG.normal(size=4000)).std() < 0.15


@pytest.mark.parametrize("shape", [(1, 1), (36, 1), (2, 3), (7, 7)])
@pytest.mark.parametrize("with_image", [False, True])
def test_an_answer_is_drawn_over_any_grid(
    tmp_path: Path, shape: tuple[int, int], *, with_image: bool
) -> None:
    draw_answer(
        tmp_path / "new" / "answer.png",
        question="Is it worth $5 or $6? 为什么? " + "word " * 40,  # no mathematics, no such glyphs
        top=(("yes", 0.7), ("$x_$", 0.2)),
        attention=np.full(shape, 1 / np.prod(shape)),
        grid=RNG.standard_normal((*shape, 8)).astype(np.float16),
        mask=np.ones(shape, bool),
        image=np.asarray(photograph(0, 80, 60)) if with_image else None,
    )
    assert size_of(tmp_path / "new" / "answer.png")[0] > 500


def test_regions_are_drawn_where_they_lie(tmp_path: Path) -> None:
    """Boxes within each other, at the border, outside of the image, and of no area."""
    boxes = np.array([[0, 0, 96, 48], [20, 20, 40, 30], [90, 40, 500, 400], [10, 10, 10, 10]])
    regions = region_map(tmp_path, boxes, (96, 48))
    assert regions.shape == (24, 48)  # half the pixels
    found = regions.attention(np.array([0.1, 0.2, 0.4, 0.3], np.float32))
    expected = np.full((24, 48), 0.1, np.float32)
    expected[10:15, 10:20] = 0.2
    expected[20:, 45:] = 0.4
    expected[5, 5] = 0.3
    np.testing.assert_array_equal(found, expected)
    # Attention to the whole image does not hide the features of what is in it.
    features = regions.features(np.arange(1, 5)[:, None] * np.ones(2))
    assert [features[at].tolist() for at in ((0, 0), (12, 12), (5, 5))] == [
        [1, 1],
        [2, 2],
        [4, 4],
    ]
    lit = regions.attention(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    assert (lit == np.float32(0.4)).all()


def test_an_image_of_unknown_size_ends_with_its_last_box(tmp_path: Path) -> None:
    assert region_map(tmp_path, np.array([[10, 10, 50, 25], [0, 0, 20, 100]]), (0, 0)).shape == (
        48,
        24,
    )


def region_map(folder: Path, boxes: np.ndarray, size: tuple[int, int]) -> RegionMap:
    regions = {"x": (np.zeros((len(boxes), 4)), boxes)}
    store = write_regions(folder / "s.clipfeat", regions, {"x": size})
    found = RegionMap.of(store, "x")
    assert found is not None
    return found


def test_a_very_long_question_is_cut(tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    rest: dict[str, Any] = {"top": (("red", 0.5),), "attention": np.ones((1, 1)), "image": None}
    rest |= {"grid": np.ones((1, 1, 8), np.float16), "mask": np.ones((1, 1), bool)}
    draw_answer(one, question="what " * 1_000, **rest)
    draw_answer(two, question="what " * 100_000, **rest)
    assert one.read_bytes() == two.read_bytes()


def test_padding_of_the_recipe_is_not_drawn(tmp_path: Path) -> None:
    """The same picture as of the real cells alone."""
    attention = RNG.random((2, 3))
    grid = RNG.standard_normal((2, 3, 8))
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    padded = [np.zeros((4, 5)), np.ones((4, 5, 8))]
    for array, real in zip(padded, (attention, grid), strict=True):
        array[1:3, 1:4] = real
    common = {"question": "Why?", "top": (("red", 0.5),), "image": None}
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw_answer(one, attention=attention, grid=grid, mask=np.ones((2, 3), bool), **common)
    draw_answer(two, attention=padded[0], grid=padded[1], mask=mask, **common)
    assert one.read_bytes() == two.read_bytes()


def test_an_image_is_light_where_the_model_looks(tmp_path: Path) -> None:
    attention = np.zeros((2, 2))
    attention[0, 1] = 1
    figure = new_figure(2.0, 2.0)
    axis = figure.subplots()
    show_lit(axis, np.full((40, 40, 3), 200, np.uint8), attention)
    save(figure, tmp_path / "lit.png", dpi=50)
    with Image.open(tmp_path / "lit.png") as picture:
        light = np.asarray(picture.convert("L")).astype(float)
    assert light[10, 90] > 170
    assert light[[10, 90, 90], [10, 10, 90]].max() < 80


def test_cells_of_one_kind_have_one_color() -> None:
    grid = np.zeros((2, 2, 8), np.float16)
    grid[0] = RNG.standard_normal(8)
    (colors,) = grid_colors([grid])
    assert colors.shape == (2, 2, 3)
    np.testing.assert_allclose(colors[0, 0], colors[0, 1], atol=1e-5)
    assert np.abs(colors[0, 0] - colors[1, 0]).max() > 0.5


def test_cells_that_do_not_differ_are_gray() -> None:
    np.testing.assert_allclose(grid_colors([np.full((3, 2, 4), 7, np.float16)])[0], 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("jpeg", mode) for mode in ("RGB", "L", "CMYK")),
        *(("png", mode) for mode in ("RGB", "L", "RGBA", "P", "1")),
    ],
)
def test_image_files_of_any_kind_have_three_channels(tmp_path: Path, kind: str, mode: str) -> None:
    photograph(0, 20, 10).convert(mode).save(tmp_path / f"a.{kind}")
    assert read_image(tmp_path / f"a.{kind}").shape == (10, 20, 3)


def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    photograph(0, 64, 64).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg", "missing.jpg", "."):
        with refuses("E-IMAGE-READ", str(tmp_path / name), "--image", kind=UsageError):
            read_image(tmp_path / name)


def test_words_are_drawn_side_by_side_with_the_image_or_without() -> None:
    """80 dots an inch, panels of 1.7 inches, 0.3 more for the words."""
    looked = [("$bill", RNG.random((2, 4))), ("\u72d7" * 30, np.eye(2, 4))]
    for image, size in ((None, (272, 114)), (np.zeros((80, 40, 3), np.uint8), (408, 228))):
        with Image.open(io.BytesIO(draw_words(looked, image))) as opened:
            assert opened.size == size
