"""Matterport3D views: a viewpoint is a folder of 36 images in MatterSim's order."""

import random

import pytest
from lists import made, picture
from refused import refuses

from clipfeat.manifests import Image, ManifestError, read_content, view_files, view_paths


@pytest.mark.parametrize(
    "name", ["{0}.jpg", "{0:02}.png", "17DRP5sb8fy_abc123_view{0}.jpg", "2t7_{0:03}.JPG"]
)
def test_views_are_ordered_by_the_last_number(name):
    names = [name.format(k) for k in range(36)]
    mixed = random.Random(0).sample(names, 36)
    assert view_paths([*mixed, "readme.txt"]) == tuple(names)


@pytest.mark.parametrize(
    ("names", "code", "shown"),
    [
        ([f"{k}.jpg" for k in range(35)], "E-VIEWS-COUNT", "35 views; a viewpoint has 36"),
        ([f"{k}.jpg" for k in range(1, 37)], "E-VIEWS-COUNT", "views 1 to 36; expected 0 to 35"),
        ([f"{k}.jpg" for k in range(36)] + ["x_7.png"], "E-VIEWS-TWICE", "'7.jpg' and 'x_7.png'"),
        (["a.jpg"] * 36, "E-VIEWS-NAME", "'a.jpg'"),
        (["a" + "9" * 5000 + ".jpg"], "E-VIEWS-NAME", "'a999"),
    ],
)
def test_what_is_no_viewpoint(names, code, shown):
    with refuses(code, shown, kind=ManifestError):
        view_paths(names)


def test_hidden_files_and_odd_names_of_views(tmp_path):
    folder = tmp_path / "s1/v\\1"
    for k in range(36):
        picture(folder / f"{k}.jpg")
    picture(folder / "p.jpg").rename(folder / "._0.jpg")
    manifest, said = made(tmp_path, views=True)
    assert manifest.images == (Image("s1_v\\1", "s1/v\\\\1", 64, 48),)
    assert "skipped hidden or system files and folders: 1," in said[0]
    files = view_files(manifest.root, manifest.images[0].path)
    assert [read_content(manifest.root, file) for file in files] == [
        (folder / f"{k}.jpg").read_bytes() for k in range(36)
    ]


def test_a_manifest_of_viewpoints(tmp_path):
    for scan, viewpoint, count in (("s1", "v1", 36), ("s1", "v2", 35), ("s2", "v1", 36)):
        for k in range(count):
            picture(tmp_path / f"{scan}/{viewpoint}/{k}.jpg", 64, 48)
    picture(tmp_path / "s1/plan.jpg")
    manifest, said = made(tmp_path, views=True)
    assert manifest.images == (
        Image("s1_v1", "s1/v1", 64, 48),
        Image("s1_v2", "s1/v2", 64, 48),
        Image("s2_v1", "s2/v1", 64, 48),
    )
    assert said == [
        f"{tmp_path}: 1 of 3 viewpoints cannot be used, such as 's1/v2': "
        "35 views; a viewpoint has 36"
    ]


def test_a_folder_without_viewpoints(tmp_path):
    picture(tmp_path / "a.jpg")
    with refuses("E-MANIFEST-EMPTY", "SCAN/VIEWPOINT", kind=ManifestError):
        made(tmp_path, views=True)
