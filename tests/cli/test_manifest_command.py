"""clipfeat manifest and manifest show as they are typed."""

import json

import pytest
from command_lines import run_here
from pictures import write_bad_files, write_photographs
from PIL import Image as Pillow

from clipfeat.manifests import Image, Manifest, read_manifest, write_manifest


def clipfeat(*arguments, cwd=None):
    return run_here("manifest", *arguments, cwd=cwd)


@pytest.mark.parametrize("order", [("images", "-o", "m.parquet"), ("-o", "m.parquet", "images")])
def test_a_folder_wherever_the_options_stand(tmp_path, order):
    write_photographs(tmp_path / "images", 3)
    done = clipfeat(*order, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "m.parquet: 3 images\n", "")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert [image.image_id for image in manifest.images] == ["p000", "p001", "p002"]
    assert manifest.root == str(tmp_path / "images")


def test_ids_by_path(tmp_path):
    for name in ("a", "b"):
        write_photographs(tmp_path / "images" / name, 1)
    done = clipfeat("images", "-o", "m.parquet", cwd=tmp_path)
    assert "two images have the id 'p000': a/p000.jpg and b/p000.jpg" in done.stderr
    assert clipfeat("images", "--ids", "path", "-o", "m.parquet", cwd=tmp_path).returncode == 0
    ids = [image.image_id for image in read_manifest(tmp_path / "m.parquet").images]
    assert ids == ["a/p000", "b/p000"]
    Pillow.open(tmp_path / "images/a/p000.jpg").save(tmp_path / "images/a/p000.png")
    done = clipfeat("images", "--ids", "path", "-o", "m.parquet", cwd=tmp_path)
    assert "the id 'a/p000': a/p000.jpg and a/p000.png; ids must be unique" in done.stderr


def test_several_folders_in_one_manifest(tmp_path):
    write_photographs(tmp_path / "x", 1)
    write_photographs(tmp_path / "y", 1)
    (tmp_path / "y/p000.jpg").rename(tmp_path / "y/q.jpg")
    assert clipfeat("x", "y", "-o", "m.parquet", cwd=tmp_path).returncode == 0
    manifest = read_manifest(tmp_path / "m.parquet")
    assert [image.path for image in manifest.images] == ["x/p000.jpg", "y/q.jpg"]


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (("none",), "E-MANIFEST-SOURCE", "none is neither a folder nor a file"),
        (("note.md",), "E-MANIFEST-SOURCE", "one of .tar, .json, .parquet"),
        (
            ("images", "t.csv"),
            "E-MANIFEST-KINDS",
            "images is a folder of images and t.csv is a tab",
        ),
        (("images", "--images", "other"), "E-MANIFEST-ROOT", "--images other"),
        (("images", "--images", "elsewhere"), "E-MANIFEST-ROOT", "images is not in --images"),
        (("images", "--images", "file:///"), "E-MANIFEST-ROOT", "file:///"),
        (("t.csv", "--ids", "path"), "E-MANIFEST-OPTION", "--ids and --views"),
        (("t.csv", "--views"), "E-MANIFEST-OPTION", "--ids and --views"),
        (("images", "--id-column", "a"), "E-MANIFEST-OPTION", "--id-column and --path-column"),
        (("t.csv", "--id-column", "a"), "E-MANIFEST-COLUMN", "its columns are id, path"),
        (("t.csv", "--images", "s3://x"), "E-URL-DRIVER", "s3://x: reading s3:// needs a package"),
        (("s3://bucket/images",), "E-PATH-URL", "s3://bucket/images: "),
        (("show", "http://x/m.parquet"), "E-PATH-URL", "http://x/m.parquet: "),
        (("show", "note.txt"), "E-MANIFEST-READ", "note.txt: "),
        (("show", "none"), "E-MANIFEST-READ", "none: no such file"),
        (("show", "images"), "E-MANIFEST-READ", "images: is a folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, code, shown):
    write_photographs(tmp_path / "images", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "note.txt").write_text("no")
    (tmp_path / "note.md").write_text("no")
    (tmp_path / "t.csv").write_text("id,path\n1,images/p000.jpg\n")
    out = () if arguments[0] == "show" else ("-o", "m.parquet")
    done = clipfeat(*arguments, *out, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert shown in done.stderr
    assert done.stderr.endswith(f"[{code}]\n")
    assert not (tmp_path / "m.parquet").exists()


@pytest.fixture
def manifest(tmp_path):
    sizes = [(640, 480)] * 6 + [(480, 640)] * 2 + [(500, 500), (10, 20), (0, 0)]
    images = [Image(f"COCO_{k:04}", f"x/{k}.jpg", *size) for k, size in enumerate(sizes)]
    images[-1] = images[-1]._replace(image_id="z\x1b[2J", path="x/z.PNG")
    write_manifest(Manifest.of(tmp_path, images), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def test_show_as_json(manifest):
    done = clipfeat("show", manifest, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "path": str(manifest),
        "root": str(manifest.parent),
        "images": 11,
        "without_size": 1,
        "kinds": {".jpg": 10, ".png": 1},
        "ids": {
            "first": "COCO_0000",
            "last": "z\x1b[2J",
            "forms": {"COCO_#": 10, "z\x1b[#J": 1},
        },
        "sizes": {
            "smallest": [10, 20],
            "median": [640, 480],  # the fifth of ten
            "largest": [640, 480],
            "different": 4,
            "frequent": [
                {"size": [640, 480], "images": 6},
                {"size": [480, 640], "images": 2},
                {"size": [500, 500], "images": 1},
                {"size": [10, 20], "images": 1},
            ],
            "orientations": {"landscape": 6, "portrait": 3, "square": 1},
            # 8 * 307,200 + 250,000 + 200
            "megapixels": pytest.approx(2.7078),
            "megapixels_per_image": pytest.approx(0.27078),
        },
    }


def test_show_as_text(manifest):
    done = clipfeat("show", manifest)
    assert done.stdout == (
        f"manifest  {manifest}, 11 images\n"
        f"root      {manifest.parent}\n"
        "ids       COCO_0000 to z\\x1b[2J\n"
        "          like COCO_# 90.9%, z\\x1b[#J 9.1%\n"
        "files     10 .jpg, 1 .png\n"
        "unknown   1 image without a readable header\n"
        "sizes     smallest 10x20, median 640x480, largest 640x480\n"
        "          4 different sizes: 640x480 60.0%, 480x640 20.0%, 500x500 10.0%, 10x20 10.0%\n"
        "shape     landscape 60.0%, portrait 30.0%, square 10.0%\n"
        "pixels    2.7 megapixels, 0.271 per image\n"
    )


def test_show_of_a_manifest_of_files_without_a_header(tmp_path):
    images = [Image("a", "a", 0, 0)]
    write_manifest(Manifest.of(tmp_path, images), tmp_path / "m.parquet")
    assert json.loads(clipfeat("show", tmp_path / "m.parquet", "--json").stdout)["sizes"] is None
    lines = clipfeat("show", tmp_path / "m.parquet").stdout.splitlines()
    assert lines[-2:] == [
        "files     1 no ending",
        "unknown   1 image without a readable header",
    ]


def test_remarks_go_to_stderr(tmp_path):
    write_bad_files(tmp_path / "images")
    write_photographs(tmp_path / "images", 1)
    lines = ["id,path"] + [f"{k},{k}.jpg" for k in ("p000", "broken", "text", "gone")]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = clipfeat("t.csv", "--images", "images", "-o", "m.parquet", cwd=tmp_path)
    assert done.stdout == "m.parquet: 4 images, 2 without a readable header\n"
    assert (
        done.stderr == f"t.csv: 1 of 4 images are not in {tmp_path / 'images'}, such as gone.jpg\n"
    )


def test_a_source_is_not_written_over(tmp_path):
    write_photographs(tmp_path / "images", 1)
    (tmp_path / "list.csv").write_text("id,path\na,images/p000.jpg\n")
    done = clipfeat("./list.csv", "-o", "list.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "-o list.csv is a source" in done.stderr
    assert done.stderr.endswith("[E-MANIFEST-WRITE]\n")
    assert (tmp_path / "list.csv").read_text().startswith("id,path")
