"""Generated houses: what is where, what their files say, and what a walker by chance reaches."""

import json
import re
from collections import deque
from itertools import combinations

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.demo import house_views, write_houses
from clipfeat.demo.house_files import r2r_files
from clipfeat.demo.houses import WALL_COLORS, House, make_house, make_paths
from clipfeat.train.navigation.episodes import Episode
from clipfeat.train.navigation.evaluation import evaluate_walks, read_split
from clipfeat.train.navigation.graphs import image_id, read_scans
from clipfeat.train.navigation.results import Walked

HOUSES = [make_house(0, number, side) for side in (3, 4, 6) for number in range(6)]
SPLITS = ("train", "val_seen", "val_unseen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five houses with very small pictures."""
    whole = house_views.draw_views

    def small(*arguments):
        return whole(*arguments, width=16, height=12)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipfeat.demo.house_files.draw_views", small)
        out = tmp_path_factory.mktemp("houses") / "made"
        done = CliRunner().invoke(clipfeat, ["demo-houses", str(out), "--houses", "5"])
    assert done.exit_code == 0, done.output
    assert "5 houses, 1 of them unseen in training; 105 viewpoints" in done.output
    return out


def steps(house: House, start: int) -> dict[int, int]:
    """Return how many doors every room is from a room."""
    far, queue = {start: 0}, deque([start])
    while queue:
        room = queue.popleft()
        for door in house.doors:
            if room in door.rooms:
                other = door.rooms[door.rooms[0] == room]
                if other not in far:
                    far[other] = far[room] + 1
                    queue.append(other)
    return far


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: f"{house.name}-{house.side}")
def test_rooms_within_two_doors_have_different_colours(house):
    for a, b in combinations(range(house.side**2), 2):
        if steps(house, a)[b] <= 2:
            assert house.colors[a] != house.colors[b]
    assert len(house.doors) == 2 * house.side * (house.side - 1)
    assert max(steps(house, 0).values()) == 2 * (house.side - 1)


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: f"{house.name}-{house.side}")
def test_rooms_and_doors_alternate_about_four_metres_apart(house):
    rooms = house.side**2
    for a, b in house.edges:
        assert a < rooms <= b
        assert 3.5 < np.hypot(*np.subtract(house.places[a][1:], house.places[b][1:])) < 4.6
        room, door = house.places[a].name, house.places[b].name
        assert room in door.split("-")
    # Nothing stands on an edge.
    for thing in house.things:
        for a, b in house.edges:
            start, end = (np.array(house.places[n][1:]) for n in (a, b))
            share = np.clip(np.dot((thing.x, thing.y) - start, end - start) / 16, 0, 1)
            assert np.hypot(*(start + share * (end - start) - (thing.x, thing.y))) > 1


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: f"{house.name}-{house.side}")
def test_texts_name_the_rooms_on_the_way_and_no_directions(house):
    known = "|".join(WALL_COLORS)
    for path in make_paths(house, 0, 0):
        assert 3 <= len(path.rooms) <= house.side + 1
        names = [house.places[room].name for room in path.rooms]
        assert list(path.viewpoints[::2]) == names
        assert len(set(path.texts)) == 3
        for text in path.texts:
            assert re.findall(known, text) == [house.colors[room] for room in path.rooms]
            assert not re.search("left|right|turn|north|south|east|west|up|down", text)
            if named := re.search(r"(white|black) (\w+)", text):
                thing = house.things[path.rooms[-1]]
                assert named.groups() == (thing.color, thing.shape)


def test_files_are_read_whole_and_paths_are_shortest_ways(folder):
    graphs = folder / "connectivity"
    assert (graphs / "scans.txt").read_text().split() == [f"house{n:03}" for n in range(5)]
    for panoramas in map(json.loads, (p.read_text() for p in graphs.glob("*.json"))):
        linked = np.array([each["unobstructed"] for each in panoramas])
        assert (linked == linked.T).all()
        assert not linked.diagonal().any()
        assert linked.sum() == 48
    found = {}
    for split in SPLITS:
        read, scans = read_split(folder / "r2r", graphs, split)
        assert read.left_out.count == 0
        for record in json.loads((folder / "r2r" / f"R2R_{split}.json").read_text()):
            scan = scans[record["scan"]]
            a, b = (scan.index[record["path"][end]] for end in (0, -1))
            rows = [scan.index[name] for name in record["path"]]
            length = sum(np.linalg.norm(np.diff(scan.positions[rows], axis=0), axis=1))
            assert record["distance"] == pytest.approx(length, abs=0.006)
            assert length == pytest.approx(scan.distances[a, b])
        found[split] = {(each.scan, each.path) for each in read.episodes}
    assert not found["train"] & found["val_seen"]
    names = {split: {scan for scan, _ in found[split]} for split in SPLITS}
    assert names["val_seen"] == names["train"] == {f"house{n:03}" for n in range(4)}
    assert names["val_unseen"] == {"house004"}
    # 44 pairs of rooms: 28 with one room between them, 16 with two.
    assert sum(map(len, found.values())) == 5 * 44


def test_the_views_are_a_manifest_with_the_ids_of_the_graphs(folder, tmp_path):
    out = tmp_path / "views.parquet"
    arguments = ["manifest", "--views", str(folder / "views"), "-o", str(out)]
    done = CliRunner().invoke(clipfeat, arguments)
    assert done.exit_code == 0, done.output
    assert "cannot be used" not in done.output
    import pyarrow.parquet as pq

    scans = read_scans(folder / "connectivity")
    expected = {image_id(s.name, name) for s in scans.values() for name in s.viewpoints}
    assert set(pq.read_table(out)["image_id"].to_pylist()) == expected
    names = sorted(p.name for p in (folder / "views/house000/a1").iterdir())
    assert names == [f"{view:02}.jpg" for view in range(36)]
    assert Image.open(folder / "views/house000/a1/00.jpg").size == (16, 12)


@pytest.mark.parametrize(("side", "low", "high"), [(3, 30, 38), (4, 14, 24)])
def test_a_walker_by_chance_seldom_arrives(side, low, high):
    """One that never turns back and knows the number of steps."""
    houses = [make_house(0, number, side) for number in range(5)]
    scans = {house.name: house.scan for house in houses}
    walks = []
    for number, house in enumerate(houses):
        for path in make_paths(house, 0, number):
            reference = tuple(house.scan.index[name] for name in path.viewpoints)
            name = f"{number}-{len(walks)}"
            episode = Episode(name, name, house.name, path.viewpoints, path.heading, "", "en")
            walks.append(Walked(episode, reference, reference))
    scores = evaluate_walks(walks, scans)
    assert scores["sr"] == scores["spl"] == 100
    assert low < scores["chance"]["never turns back"]["sr"] < high
    assert scores["chance"]["stay"]["sr"] == 0


def test_the_same_seed_gives_the_same_houses(folder, tmp_path):
    again = r2r_files(HOUSES[:5], 0)
    for split in SPLITS:
        text = (folder / "r2r" / f"R2R_{split}.json").read_text()
        assert json.loads(text) == json.loads(json.dumps(again[split]))
    assert make_house(0, 3, 3) == HOUSES[3]
    assert make_house(1, 3, 3) != HOUSES[3]
    views = [
        house_views.draw_views(
            HOUSES[3], HOUSES[3].places[9], np.random.default_rng(n), width=16, height=12
        )
        for n in (5, 5, 6)
    ]
    assert (views[0] == views[1]).all()
    assert (views[0] != views[2]).any()


class TestRefused:
    def test_a_folder_that_holds_something(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("...")
        with refuses("E-DEMO-FOLDER", kind=UsageError):
            write_houses(tmp_path, 5, 3, seed=0)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize(
        ("houses", "rooms", "told"),
        [(1, 3, "2 to 1000"), (1001, 3, "2 to 1000"), (5, 2, "3 to 6"), (5, 7, "3 to 6")],
    )
    def test_numbers(self, tmp_path, houses, rooms, told):
        with refuses("E-DEMO-HOUSES", told, kind=UsageError):
            write_houses(tmp_path / "d", houses, rooms, seed=0)
        assert not (tmp_path / "d").exists()
