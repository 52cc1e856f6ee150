"""Which part of an image a grid covers, by recipes of clipfeat, with numbers worked out by hand."""

import numpy as np
import pytest
from stores import make_identity

from clipfeat.extract.planning.recipe import check_recipe
from clipfeat.featstore import GridShape
from clipfeat.view.geometry import box_shares, covered_part, is_turned


def part(recipe: str, size: tuple[int, int] | None, shape: tuple[int, int], **changes):
    identity = make_identity(4, recipe={**check_recipe(recipe).to_json(), **changes})
    return covered_part(identity, size, GridShape(*shape))


def test_a_stretched_image_is_covered_wholly():
    assert part("caption448", (640, 480), (14, 14)) == (0, 0, 1, 1)


def test_what_is_cropped_lies_outside():
    # 640 x 480 becomes 298 x 224; of the width, round((298 - 224) / 2) = 37 pixels are cut off.
    left, top, right, bottom = part("model", (640, 480), (7, 7))
    assert (top, bottom) == (0, 1)
    assert (left, right) == pytest.approx((37 / 298, (37 + 224) / 298))


def test_padding_reaches_outside_of_the_image():
    # 400 x 400 becomes 384 x 384, padded to 384 wide and 640 high, as it is not wider than high:
    # 128 rows above and 128 below.
    expected = (0, -128 / 384, 1, 1 + 128 / 384)
    assert part("pretrain384", (400, 400), (20, 12)) == pytest.approx(expected)


def test_a_remainder_smaller_than_a_cell_belongs_to_no_cell():
    # 1000 x 600 pixels have 31 x 18 cells of 32, which are 992 x 576 pixels.
    assert part("vqa600", (1000, 600), (18, 31)) == pytest.approx((0, 0, 0.992, 0.96))


def test_patches_of_other_sizes_are_known_by_the_grid():
    assert part("square:336", (640, 480), (24, 24)) == (0, 0, 1, 1)  # patches of 14 pixels
    assert part("square:350", (640, 480), (21, 21)) == pytest.approx((0, 0, 0.96, 0.96))  # of 16


def test_of_a_pooled_grid_it_is_the_part_inside_of_the_image():
    inner = check_recipe("pretrain384").to_json()
    pooled = {"name": "pooled", "pool": [2, 2], "recipe": inner}
    identity = make_identity(4, recipe=pooled)
    assert covered_part(identity, (400, 400), GridShape(2, 2)) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ({"name": "somebody's"}, (640, 480)),
        ({"name": "broken", "steps": [{"step": "explode"}]}, (640, 480)),
        ({"name": "broken", "pool": "x"}, (640, 480)),
        (check_recipe("model").to_json(), None),
        (check_recipe("views").to_json(), (640, 480)),
    ],
)
def test_where_it_is_not_known_it_is_the_whole_image(recipe, size):
    identity = make_identity(4, recipe=recipe)
    assert covered_part(identity, size, GridShape(7, 7)) == (0, 0, 1, 1)


def test_a_recipe_says_whether_it_turns_images():
    for upright in (True, False):
        recipe = check_recipe("model", upright=upright).to_json()
        assert is_turned(make_identity(4, recipe=recipe)) is upright


def test_boxes_are_shares_of_the_image():
    boxes = np.array([[0, 0, 320, 240], [10, 20, 700, 480], [np.nan, 0, 1, 1]], np.float32)
    expected = [[0, 0, 0.5, 0.5], [10 / 640, 20 / 480, 1, 1], [0, 0, 1 / 640, 1 / 480]]
    np.testing.assert_allclose(box_shares(boxes, (640, 480)), expected)
    assert box_shares(boxes[:2], None)[1, 2:].tolist() == [1, 1]
