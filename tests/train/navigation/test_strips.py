"""Strips of views: which views a walk was left through, and pictures from anywhere."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from nav_files import write_graph
from PIL import Image
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.navigation.candidates import find_candidates
from clipfeat.train.navigation.episodes import Episode
from clipfeat.train.navigation.graphs import Scan, read_scans
from clipfeat.train.navigation.page import write_page
from clipfeat.train.navigation.results import Walked
from clipfeat.train.navigation.strips import legs_of, read_pictures, shortened

ABED = (0, 1, 4, 3)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """A(0,0) B(2,0) C(5,0) D(5,4) E(2,4), metres to the east and north."""
    write_graph(tmp_path / "graphs", "house")
    return read_scans(tmp_path / "graphs")["house"]


@pytest.fixture
def folder(tmp_path: Path, scan: Scan) -> Path:
    """Pictures of 320 x 240 whose red is that of the viewpoint and whose green that of the view."""
    for number, viewpoint in enumerate(scan.viewpoints):
        to = tmp_path / "views" / "house" / viewpoint
        to.mkdir(parents=True)
        for view in range(36):
            color = (50 * number, 7 * view, 90)
            Image.new("RGB", (320, 240), color).save(to / f"{view}.png")
    return tmp_path / "views"


def page_of(tmp_path: Path, scan: Scan, walk: tuple[int, ...], images: Path | None) -> str:
    episode = Episode("1_0", "1", "house", ("house-A", "house-D"), 0.1, "Go.", "en")
    write_page(tmp_path / "page.html", [Walked(episode, walk, ABED)], {"house": scan}, images)
    return (tmp_path / "page.html").read_text()


def test_turns_are_from_the_heading_before_and_views_the_nearest(scan: Scan) -> None:
    """From A to B one looks east, to E north, to D east."""
    legs = legs_of(scan, find_candidates(scan), ABED, 0.1)
    assert [leg.viewpoint[-1] for leg in legs] == ["A", "B", "E", "D"]
    assert [leg.view for leg in legs] == [15, 12, 15, 15]
    assert [leg.text for leg in legs] == [
        "1. 90° right, 2.0 m",
        "2. 90° left, 4.0 m",
        "3. 90° right, 3.0 m",
        "stop",
    ]
    there_and_back = legs_of(scan, find_candidates(scan), (0, 1, 2, 1), np.pi / 2)
    assert [leg.text for leg in there_and_back] == [
        "1. ahead, 2.0 m",
        "2. ahead, 3.0 m",
        "3. 180° right, 3.0 m",
        "stop",
    ]
    assert [(leg.view, leg.text) for leg in legs_of(scan, find_candidates(scan), (2,), 4.055)] == [
        (20, "stop")
    ]


def test_long_walks_show_their_first_legs_and_their_end(scan: Scan) -> None:
    legs = legs_of(scan, find_candidates(scan), (0, 1) * 20, 0.0)
    assert shortened(legs) == [*legs[:11], legs[-1]]
    assert shortened(legs[:12]) == legs[:12]


def test_a_page_has_the_views_that_the_agent_saw(tmp_path: Path, scan: Scan, folder: Path) -> None:
    text = page_of(tmp_path, scan, ABED, folder)
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall('data:image/jpeg;base64,([^"]+)', text)
    ]
    assert {picture.size for picture in pictures} == {(107, 80)}  # every third pixel of 320 x 240
    colors = [np.asarray(picture).mean(axis=(0, 1)) for picture in pictures]
    expected = [(0, 105, 90), (50, 84, 90), (200, 105, 90), (150, 105, 90)]
    assert np.abs(np.subtract(colors, expected)).max() < 4  # JPEG
    assert text.count("<figcaption>") == 4
    assert "jpeg" not in page_of(tmp_path, scan, ABED, None)


def test_pictures_are_small_whatever_the_files_are(
    tmp_path: Path, scan: Scan, folder: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    Image.fromarray(noise).save(folder / "house" / "house-A" / "15.png")
    picture = read_pictures(folder, [("house", "house-A", 15)])["house", "house-A", 15]
    assert len(picture) < 30_000


def test_missing_and_bad_pictures_are_told_and_skipped(
    tmp_path: Path, scan: Scan, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "house" / "house-A" / "15.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (folder / "house" / "house-B" / "3.png").unlink()
    Image.new("L", (5000, 5000)).save(folder / "house" / "house-E" / "15.png")
    Image.new("L", (64, 48), 200).save(folder / "house" / "house-D" / "15.png")
    text = page_of(tmp_path, scan, ABED, folder)
    assert text.count("no picture") == 3
    assert text.count("data:image/jpeg") == 1
    assert "3 of 4 views have no picture, such as house/house-B: 35 views" in caplog.text
    assert "%!PS" not in text


def test_a_folder_without_any_is_an_error(tmp_path: Path, scan: Scan) -> None:
    (tmp_path / "other").mkdir()
    with refuses("E-OPTION-FOLDER", "4 of 4 views have no picture", kind=UsageError):
        page_of(tmp_path, scan, ABED, tmp_path / "other")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("viewpoint", ["..", ".", "../house/house-A", "house-A/../house-A"])
def test_names_lead_nowhere_else(folder: Path, viewpoint: str) -> None:
    with refuses("E-OPTION-FOLDER", "no folder has such a name", kind=UsageError):
        read_pictures(folder, [("house", viewpoint, 15)])
