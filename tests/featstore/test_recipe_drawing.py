"""The drawing of a recipe: sizes and places that were worked out by hand from the recipes' rules."""

from html.parser import HTMLParser

import pytest
from stores import make_identity

from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore import GridShape
from clipfeat.featstore.card.recipe_drawing import drawing, panels
from clipfeat.featstore.recipes import image_recipe

CLIP = Preprocess(224, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PADDED = Preprocess(224, "longest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def steps_of(recipe):
    _, steps = image_recipe(make_identity(4, recipe=recipe))
    return steps


def panels_of(name, size, shape, native=CLIP, cell=(32, 32)):
    recipe = make_recipe(name, native, cell).to_json()
    return panels(steps_of(recipe), size, GridShape(*shape))


def test_a_stretch():
    image, stretch, grid = panels_of("square:448", (640, 480), (14, 14))
    assert (image.whole, stretch.title, stretch.whole) == ((640, 480), "stretch", (448, 448))
    assert (grid.grid, grid.detail) == (
        (GridShape(14, 14), 32, 32),
        "14 x 14 cells of 32 x 32 pixels",
    )


def test_a_resize_and_a_crop():
    # The shorter side becomes 224, the longer 640 * 224 / 480 = 298.67, rounded down.
    _, resize, crop, grid = panels_of("model", (640, 480), (7, 7))
    assert (resize.whole, crop.whole) == ((298, 224), (298, 224))
    assert crop.kept == (37, 0, 224, 224)
    # Over the grid lies what the crop has kept: the image begins left of it.
    assert (grid.whole, grid.image) == ((224, 224), (-37, 0, 298, 224))


def test_a_resize_and_padding():
    # A row of the table in docs/store-format.md, The mask.
    _, resize, pad, grid = panels_of("pretrain384", (333, 500), (20, 12))
    assert resize.whole == (384, 576)
    assert (pad.whole, pad.image, pad.is_frame) == ((384, 640), (0, 32, 384, 576), True)
    assert grid.image == (0, 32, 384, 576)
    # 224 / 640 of 480 is 168: 28 pixels of padding above and below.
    *_, pad, _ = panels_of("model", (640, 480), (7, 7), PADDED)
    assert pad.image == (0, 28, 224, 168)


def test_pixels_that_fill_no_cell_are_left_of_the_grid():
    # 600 = 18 * 32 + 24, 1000 = 31 * 32 + 8.
    *_, grid = panels_of("vqa600", (640, 480), (18, 31))
    assert (grid.whole, grid.grid) == ((1000, 600), (GridShape(18, 31), 32, 32))
    *_, grid = panels_of("square:224", (640, 480), (16, 16), cell=(14, 14))
    assert grid.grid == (GridShape(16, 16), 14, 14)


def test_a_grid_that_no_cell_explains_is_divided_evenly():
    *_, grid = panels_of("square:100", (640, 480), (3, 7))
    assert grid.grid == (GridShape(3, 7), 100 / 7, 100 / 3)
    assert grid.detail == "3 x 7 cells"


@pytest.mark.parametrize(
    "recipe", [{}, {"name": "x"}, {"steps": [{"step": "boil"}]}, {"pool": [1, 1]}]
)
def test_a_recipe_of_another_program_has_no_drawing(recipe):
    assert steps_of(recipe) == ()


def test_the_recipe_of_pooled_grids_is_the_one_inside():
    inner = make_recipe("square:448", CLIP, (32, 32)).to_json()
    assert len(steps_of({"pool": [7, 7], "recipe": inner})) == 2


def test_a_line_of_which_nothing_is_left_ends_the_drawing():
    found = panels_of("model", (60_000, 1), (7, 7), PADDED)
    assert [panel.whole for panel in found] == [(60_000, 1)]


class Shapes(HTMLParser):
    """The elements of the drawings, each list item for itself."""

    def __init__(self, text):
        super().__init__()
        self.items: list[list[tuple[str, dict[str, str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "li":
            self.items.append([])
        elif self.items:
            self.items[-1].append((tag, {name: value or "" for name, value in attrs}))

    handle_startendtag = handle_starttag


def test_it_is_drawn_at_true_proportions():
    items = Shapes(drawing(panels_of("pretrain384", (640, 480), (12, 20)))).items
    sizes = []
    for elements in items:
        svg = elements[0][1]
        sizes.append((float(svg["width"]) - 4, float(svg["height"]) - 4))
        assert svg["role"] == "img"
        assert svg["aria-label"]
    for (width, height), expected in zip(
        sizes, [640 / 480, 512 / 384, 640 / 384, 640 / 384], strict=True
    ):
        assert width / height == pytest.approx(expected, rel=0.02)
    (image,) = [a for tag, a in items[2] if tag == "use"]  # in the frame: 64 pixels from the left
    assert float(image["x"]) / float(image["width"]) == pytest.approx(64 / 512, rel=0.01)
    (lines,) = [a for tag, a in items[3] if a.get("class") == "cells"]
    assert (lines["d"].count("V"), lines["d"].count("H")) == (21, 13)
