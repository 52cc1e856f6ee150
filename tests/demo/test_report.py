"""The demo's table and picture, from numbers and grids made by hand."""

import dataclasses
import io

import numpy as np
from pictures import photograph
from PIL import Image
from stores import make_store

from clipfeat.demo.report import AnsweredQuestion, Report, ShownScene, draw_picture, npz_bytes
from clipfeat.featstore import FeatureStore

RNG = np.random.default_rng(0)


def test_the_table_says_what_features_are_worth():
    report = Report("RN50", "none", 1200, 33.1, 70_900_000, 86_200_000, 70.7, 35.3, 1066)
    lines = report.table().splitlines()
    assert abs(report.gain - 35.4) < 1e-9
    assert lines[0].split("  ")[0] == "images (RN50, random weights)"
    assert lines[4].split()[-1] == "0.82"
    assert lines[-1].endswith("35.4 points")
    assert not report.is_too_low


def test_few_scenes_need_not_be_worth_as_much():
    report = Report("RN50", "none", 1200, 33.1, 70_900_000, 86_200_000, 40.2, 35.3, 1066)
    assert report.is_too_low
    assert not dataclasses.replace(report, images=150).is_too_low


def test_npz_bytes_are_those_of_real_files(tmp_path):
    records = {f"i{k}": RNG.standard_normal((2, 2, 64)).astype(np.float16) for k in range(5)}
    total = 0
    for grid in records.values():
        file = io.BytesIO()
        np.savez_compressed(file, feat=grid.astype(np.float32))
        total += len(file.getvalue())
    assert npz_bytes(FeatureStore.open(make_store(tmp_path / "s", records))) == total


def test_the_picture_has_a_column_a_scene(tmp_path):
    photograph(0, 80, 60).save(tmp_path / "a.jpg")
    attention = np.full((3, 3), 1 / 9)
    questions = (
        AnsweredQuestion("What color is it?", "red", "red", attention),
        AnsweredQuestion("What shape is it?", "star", "circle", attention),
    )
    scenes = [
        ShownScene(
            tmp_path / "a.jpg", RNG.standard_normal((3, 3, 16)).astype(np.float16), questions
        )
        for _ in range(2)
    ]
    draw_picture(scenes, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:  # 2.9 x 3.05 inches a cell at 80 dots
        assert picture.size == (2 * 232, 4 * 244)
