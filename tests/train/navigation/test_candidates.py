"""Candidates in arrays equal a literal walk through 36 views, at near ties too, and known numbers."""

import math

import numpy as np
import pytest
from scans import connectivity, random_scan, simulator, write_scan

from benchmarks.plain_simulator import PlainSimulator, walk_views
from clipfeat.train.navigation.candidates import HALF_WIDTH, find_candidates, named_candidates
from clipfeat.train.navigation.graphs import make_scan, read_scan
from clipfeat.train.navigation.views import angle4, snapped, wrapped

# Of R2R's simulator: heading, elevation, view.
SNAPPED = [
    (0, 0, 12),
    (0.2617, 0, 12),
    (0.2619, 0, 13),
    (6.1, 0, 12),
    (-0.3, 0, 23),
    (4.055, 0, 20),
    (1, 0.2617, 14),
    (1, 0.2619, 26),
    (1, -0.3, 2),
    (6.282, -1, 0),
]
# Of five viewpoints of Matterport3D: the offsets to the neighbours in the order of the candidates, and
# of each the view, heading, elevation and distance that the walk in the simulator gives.
PUBLISHED = {
    "2t7WUuJeko7": [
        ((0.20091, 0.68538, -0.00594), 13, 0.285148, -0.008317, 0.714245),
        (None, 23, 5.983407, -0.012815, 2.028214),
        (None, 14, 1.178504, -0.02356, 0.573049),
    ],
    "17DRP5sb8fy": [
        (None, 12, 0.22921, 0.007139, 0.829218),
        (None, 17, 2.560649, 0.002884, 3.013261),
        (None, 18, 3.172244, -0.000321, 1.060468),
    ],
    "8194nk5LbLH": [
        (None, 18, 2.996842, 0.001248, 2.332593),
        (None, 20, 4.054931, 0.003131, 4.637096),
        (None, 21, 4.495624, 0.000226, 3.36619),
    ],
    "2azQ1b91cZZ": [
        ((0.019, 0.769619, 0.30902), 24, 0.024683, 0.381714, 0.829559),
        ((-1.5999, 1.991648, 1.08792), 35, 5.606433, 0.402595, 2.776673),
        ((-0.701, -0.890952, -0.44612), 7, 3.808232, -0.374908, 1.218285),
        ((-1.9712, -1.000002, -1.06723), 8, 4.242914, -0.449821, 2.454509),
    ],
    "oLBMNvg9in8": [
        ((-0.99105, 1.72094, 0.587442), 35, 5.760692, 0.287605, 2.070967),
        ((-0.88412, 0.51209, 0.592382), 34, 5.23738, 0.525427, 1.181025),
    ],
}


def offset(heading, elevation, distance):
    """Where a direction and a distance lead to."""
    level = distance * math.cos(elevation)
    return (
        level * math.sin(heading),
        level * math.cos(heading),
        distance * math.sin(elevation),
    )


def star(offsets, middle=(4.7835, -4.81047, 1.71617)):
    """Panoramas: one in the middle, which is linked to one at each offset."""
    places = [middle] + [tuple(np.add(middle, each)) for each in offsets]
    return connectivity(places, [(0, k) for k in range(1, len(places))])


def found(scan):
    """Candidates as lists of (neighbour, view) and of (heading, elevation, distance)."""
    candidates = find_candidates(scan)
    cuts = candidates.starts[1:-1]
    return (
        [list(map(tuple, part)) for part in np.split(np.stack(candidates[1:3], 1), cuts)],
        np.split(np.stack(candidates[3:], 1), cuts),
    )


def walked(scan):
    """The same of the literal walk."""
    plain, order, numbers = simulator(scan), [], []
    for viewpoint in range(len(scan.viewpoints)):
        plain.viewpoint = viewpoint
        candidates = walk_views(plain)
        order.append([(each.viewpoint, each.view) for each in candidates])
        numbers.append([(each.heading, each.elevation, each.distance) for each in candidates])
    return order, numbers


def check(scan):
    order, numbers = found(scan)
    expected_order, expected_numbers = walked(scan)
    assert order == expected_order
    for got, expected in zip(numbers, expected_numbers, strict=True):
        assert np.abs(got - np.reshape(expected, (-1, 3))).max(initial=0) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs(seed):
    check(random_scan(np.random.default_rng(seed), 40))


@pytest.mark.parametrize("gap", [1e-4, 1e-7, 1e-9, 1e-11])
def test_near_ties(gap):
    """Directions beside what decides: half a view, the edge of the picture, a row, a neighbour's."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        k = math.radians(30) * int(rng.integers(12))
        headings = [k + math.radians(15), k + HALF_WIDTH, k - HALF_WIDTH, k]
        rows = [math.radians(15), math.radians(-15), 0.0, 0.3]
        pairs = [(h, float(e)) for h in headings for e in rng.permutation(rows)[:3]]
        signs = rng.choice([-1, 1], (len(pairs), 2)).tolist()
        # Each is beside the tie by another multiple of the gap, so that no two are tied with each other.
        directions = [
            (h + sign * many * gap, e + tilt * many * gap)
            for many, ((h, e), (sign, tilt)) in enumerate(zip(pairs, signs, strict=True), start=1)
        ]
        # The same angle off a view to the left and to the right, up to the gap.
        directions += [(k + 0.1, 0.2), (k - 0.1 - gap, 0.2), (k - 0.1 + gap, 0.2 + 3 * gap)]
        scan = write_and_read([offset(h, e, rng.uniform(1, 5)) for h, e in directions])
        check(scan)


def write_and_read(offsets):
    places = np.array([(0, 0, 0), *offsets])
    edges = [(0, k) for k in range(1, len(places))]
    return make_scan("star", [str(k) for k in range(len(places))], places, edges)


@pytest.mark.parametrize(
    ("place", "view"),
    [
        ((math.sin(math.radians(15)), math.cos(math.radians(15)), 0.0), {12, 13}),
        ((0.0, math.cos(math.radians(15)), math.sin(math.radians(15))), {12, 24}),
        ((0.0, 1.0, 0.0), {12}),
        ((0.0, -1.0, 0.0), {18}),
        ((-1e-9, 1.0, 0.0), {12}),
    ],
)
def test_directions_between_views(place, view):
    scan = write_and_read([place])
    check(scan)
    assert found(scan)[0][0][0][1] in view


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_viewpoints(tmp_path, name):
    """In the order of the file, candidates stand in another order."""
    rows = PUBLISHED[name]
    offsets = [place or offset(*numbers) for place, _, *numbers in rows]
    scan = read_scan(write_scan(tmp_path, name, star(offsets[::-1])))
    listed = named_candidates(scan, find_candidates(scan))["v0"]
    assert [each["viewpoint"] for each in listed] == [f"v{k}" for k in range(len(rows), 0, -1)]
    assert [each["view"] for each in listed] == [view for _, view, *_ in rows]
    for each, (_, _, *numbers) in zip(listed, rows, strict=True):
        got = [each["heading"], each["elevation"], each["distance"]]
        assert got == pytest.approx(numbers, abs=3e-6)
    check(scan)


def test_a_viewpoint_without_an_edge_has_no_candidates():
    scan = make_scan("alone", ["a"], np.zeros((1, 3)), [])
    assert named_candidates(scan, find_candidates(scan)) == {"a": []}
    assert found(scan)[0] == [[]]


@pytest.mark.parametrize(("heading", "elevation", "view"), SNAPPED)
def test_snapping(heading, elevation, view):
    assert snapped(np.array([heading]), np.array([elevation])).tolist() == [view]


def test_halves_go_up():
    halves = (np.arange(-12, 12) + 0.5) * math.radians(30)
    near = np.round(np.mod(halves, 2 * math.pi) / math.radians(30), 9)
    expected = 12 + (np.floor(near) + 1) % 12
    exact = (np.mod(halves, 2 * math.pi) / math.radians(30)) % 1 == 0.5
    assert exact.sum() >= 6  # the others are not halves in float64
    assert (snapped(halves) == expected)[exact].all()
    below = np.nextafter(0.5, 0) * math.radians(30)
    assert snapped(np.array([below, -1e-20, 2 * math.pi])).tolist() == [12, 12, 12]


def test_the_plain_simulator_turns_as_the_real_one():
    """The simulator's own test of discretised motion: views after turns and tilts of any size."""
    plain = PlainSimulator([(0, 0, 0)], {0: []})
    plain.new_episode(0, math.radians(10), math.radians(10))
    views = [plain.view]
    turns = (-20, -360, 371, 89, 90, -90, -180, -180, -180)
    tilts = (0, -36, -30, -10, 0, 90, 5, -10, -40)
    for turn, tilt in zip(turns, tilts, strict=True):
        plain.make_action(0, turn, tilt)
        views.append(plain.view)
    assert views == [12, 23, 10, 11, 0, 1, 12, 35, 22, 9]


def test_angles():
    third = math.radians(30)
    got = angle4(np.array([third, 3 * third]), np.array([-third, third]))
    expected = [[0.5, math.cos(third), -0.5, math.cos(third)], [1, 0, 0.5, math.cos(third)]]
    assert np.abs(got - expected).max() < 1e-15
    turned = wrapped(np.array([math.pi, -math.pi, 3 * math.pi, 0, 4, -4, 13]))
    assert turned.tolist() == pytest.approx(
        [math.pi, math.pi, math.pi, 0, 4 - 2 * math.pi, 2 * math.pi - 4, 13 - 4 * math.pi]
    )
