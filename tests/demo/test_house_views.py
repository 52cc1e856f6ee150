"""Views show what is where: pixels worked out by hand, and the rooms that candidates lead to.

Pictures are 96 x 72 pixels, so the focal length is 36 / tan 30 degrees = 62.354 pixels, and the
centre lies between the pixels 47 and 48, 35 and 36.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfeat.demo.house_picture import draw_house
from clipfeat.demo.house_views import draw_views
from clipfeat.demo.houses import WALL_COLORS, Door, House, Place, Thing, make_house
from clipfeat.train.navigation.candidates import find_candidates

RED, BLUE = np.array(WALL_COLORS["red"]), np.array(WALL_COLORS["blue"])
# Who stands in the middle of a red room sees, to the north, a blue one through a door.
HERE = Place("a1", 4.0, 4.0)
HOUSE = House(
    "house",
    2,
    ("red", "green", "blue", "yellow"),
    (
        Thing("pillar", "white", 6.6, 6.6),  # at 45 degrees
        Thing("ball", "black", 14.0, 2.0),
        Thing("ball", "black", 2.0, 14.0),
        Thing("ball", "black", 14.0, 14.0),
    ),
    (Door((0, 2), 1, 8.0, 4.0),),
    (HERE, Place("b1", 12.0, 4.0), Place("a2", 4.0, 12.0), Place("a1-a2", 4.0, 8.0)),
    ((0, 3), (2, 3)),
)
NORTH, EAST = 12, 15


@pytest.fixture
def views(monkeypatch):
    """The views from HERE, without noise."""
    monkeypatch.setattr("clipfeat.demo.house_views.NOISE", 0.0)
    return draw_views(HOUSE, HERE, np.random.default_rng(0)).astype(int)


def is_grey(pixel):
    return pixel.max() - pixel.min() <= 1


def is_red(pixel):
    return pixel[0] > 2 * max(pixel[1:])


def test_a_wall_with_a_door_seen_from_its_front(views):
    """The wall is 4 m away: 1 m is 15.59 pixels.

    The door is 1.5 m to either side: 23.4 pixels, columns 25 to 70; its upper edge 0.8 m above the eye:
    12.5 pixels, from row 24 down. Frame and skirting are 0.12 m wide, 1.9 pixels. The ceiling is 1.3 m
    above, 20.3 pixels, to row 15; the floor 1.5 m below, 23.4 pixels, from row 59; the skirting's edge 1.38 m
    below, 21.51 pixels, so that row 58 is the first.
    """
    north = views[NORTH]
    assert [is_red(north[30, c]) for c in (21, 22, 23, 24)] == [True, True, False, False]
    assert is_grey(north[30, 24])
    assert [north[30, c].argmax() for c in (25, 47, 70)] == [2, 2, 2]  # blue
    assert is_grey(north[30, 71])
    assert [is_red(north[30, c]) for c in (71, 72, 73, 74)] == [False, False, True, True]
    assert is_red(north[20, 48])
    assert is_grey(north[23, 48])
    assert not is_grey(north[35, 48])
    assert [is_red(north[r, 10]) for r in (15, 16, 56, 57, 58)] == [False, True, True, True, False]
    assert north[58, 10].mean() < 70 < 90 < north[59, 10].mean() < 110  # skirting, then floor
    # The wall behind the door is 12 m away, of which light loses 1.5 % a metre.
    assert north[35, 48] == pytest.approx(BLUE * (1 - 0.015 * 12), abs=1.5)


def test_a_wall_without_a_door(views):
    """4 m away, and darker, since it runs from south to north."""
    for column in (30, 48, 60):
        metres = 4 * np.hypot(1, (column + 0.5 - 48) / 62.354)
        expected = RED * 0.82 * (1 - 0.015 * metres)
        assert views[EAST][36, column] == pytest.approx(expected, abs=1.5)


def test_a_pillar(views):
    """3.677 m away at 45 degrees, 0.35 m thick: 45 +- 5.46 degrees.

    In the view of 30 degrees its edges are at tan 9.54 and tan 20.46 degrees to the right of the centre:
    10.5 and 23.3 pixels, columns 59 to 70. In the view of 60 degrees they are mirrored.
    """
    at_30, at_60 = views[NORTH + 1][36], views[NORTH + 2][36]
    for column, is_pillar in ((57, False), (59, True), (64, True), (70, True), (72, False)):
        assert is_grey(at_30[column]) == is_pillar, column
        assert is_grey(at_60[95 - column]) == is_pillar, column


def test_a_ball_in_two_rows_of_views(monkeypatch):
    """Its centre is 3.002 m away at 30 degrees, 0.9 m below the eye: 16.7 degrees down, +- 11.04.

    Its upper edge, 5.65 degrees down, is 6.2 pixels below the centre of the middle row's view and 28.2 above
    that of the lower row's: from row 43 and row 8 on. Its lower edge, 27.73 degrees down, is 32.8 pixels below
    the one and 2.5 above the other: to row 67 and row 32.
    """
    monkeypatch.setattr("clipfeat.demo.house_views.NOISE", 0.0)
    ball = Thing("ball", "black", 4 + 1.501, 4 + 2.6)
    house = House(**{**vars(HOUSE), "things": (ball,) * 4})
    views = draw_views(house, HERE, np.random.default_rng(0)).astype(int)
    column = slice(47, 49)
    middle, lower = (view[:, column].mean(axis=(1, 2)) < 40 for view in (views[13], views[1]))
    assert not middle[:42].any()
    assert middle[43:68].all()
    assert not middle[70:].any()
    assert not lower[:7].any()
    assert lower[8:33].all()
    assert not lower[34:].any()


def test_noise_has_the_stated_deviation():
    noisy = draw_views(HOUSE, HERE, np.random.default_rng(0))[EAST][30:40, 20:76].astype(float)
    assert 5 < (noisy - noisy.mean(axis=(0, 1))).std() < 7


def test_the_view_of_a_candidate_shows_the_room_that_it_leads_to():
    """From a door, most of what has a colour has that of the room; from a room, the door is there."""
    house = make_house(0, 0, 3)
    candidates = find_candidates(house.scan)
    hues = {name: np.array(rgb) / np.linalg.norm(rgb) for name, rgb in WALL_COLORS.items()}
    for number in range(9, len(house.places)):
        views = draw_views(
            house, house.places[number], np.random.default_rng(0), width=32, height=24
        )
        for row in range(candidates.starts[number], candidates.starts[number + 1]):
            pixels = views[candidates.views[row]].reshape(-1, 3).astype(float)
            pixels = pixels[np.ptp(pixels, axis=1) > 40]
            pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
            nearest = np.argmax(pixels @ np.stack(list(hues.values())).T, axis=1)
            seen = list(hues)[np.bincount(nearest).argmax()]
            assert seen == house.colors[candidates.viewpoints[row]]


def test_the_picture_of_the_documentation():
    with Image.open(io.BytesIO(draw_house(0, 1))) as image:
        assert image.format == "PNG"
        assert image.size == (990, 369)
    assert (Path(__file__).parents[2] / "docs/houses.png").stat().st_size < 150_000
