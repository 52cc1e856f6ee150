"""Image files: which are given out, and which paths of a store are not followed."""

import io

import numpy as np
import pytest
from explorers import client_of
from PIL import Image
from stores import make_store

from clipfeat.base.errors import ClipfeatError, MissingRecordError
from clipfeat.view import images as module
from clipfeat.view.ids import Entry
from clipfeat.view.images import ImageFiles


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, kind)
    return file.getvalue()


def entry(image_id: str, source: str = "") -> Entry:
    return Entry(image_id, "ok", "", None, None, source)


@pytest.mark.parametrize(
    ("kind", "media"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("GIF", "image/gif")],
)
def test_the_bytes_of_a_file_come_with_the_type_of_its_content(tmp_path, kind, media):
    (tmp_path / "x.txt").write_bytes(encoded(kind))  # whatever it is called
    files = ImageFiles(str(tmp_path))
    assert files.has(entry("i", "x.txt"))
    assert files.read(entry("i", "x.txt")) == (encoded(kind), media)


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<html>", encoded("BMP"),
     b"RIFF0000WAVE", b"root:x:0:0"],
)  # fmt: skip
def test_what_is_no_image_for_a_browser_is_not_given_out(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ClipfeatError) as error:
        ImageFiles(str(tmp_path)).read(entry("i", "x.jpg"))
    assert error.value.code == "E-VIEW-IMAGE-KIND"


def test_a_path_that_leads_out_of_the_root_is_not_followed(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    files = ImageFiles(str(root))
    for path in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png",
                 f"file://{tmp_path}/secret.png", "\0", ""):  # fmt: skip
        for each in (entry("i", path), entry(path.removesuffix(".png") or "i")):
            assert not files.has(each)
            with pytest.raises(MissingRecordError):
                files.read(each)


def test_a_link_in_the_folder_is_followed(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "elsewhere.png").write_bytes(encoded("PNG"))
    (root / "a.png").symlink_to(tmp_path / "elsewhere.png")
    assert ImageFiles(str(root)).read(entry("a"))[1] == "image/png"
    (root / "b.jpg").symlink_to("/etc/passwd")
    with pytest.raises(ClipfeatError) as error:
        ImageFiles(str(root)).read(entry("b"))
    assert error.value.code == "E-VIEW-IMAGE-KIND"


def test_an_id_without_a_path_is_tried_as_the_name_of_a_file(tmp_path):
    (tmp_path / "a b.png").write_bytes(encoded("PNG"))
    assert ImageFiles(str(tmp_path)).read(entry("a b"))[1] == "image/png"
    assert not ImageFiles(str(tmp_path)).has(entry("c"))


def test_a_large_file_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with pytest.raises(ClipfeatError) as error:
        ImageFiles(str(tmp_path)).read(entry("a"))
    assert error.value.code == "E-VIEW-IMAGE-SIZE"


def test_a_root_that_is_no_folder(tmp_path):
    with pytest.raises(ClipfeatError) as error:
        ImageFiles(str(tmp_path / "nowhere"))
    assert error.value.code == "E-VIEW-IMAGES"


def test_images_over_http(tmp_path):
    path = make_store(tmp_path / "s", {"i": np.ones((1, 1, 4)), "j": np.ones((1, 1, 4))})
    (tmp_path / "i.png").write_bytes(encoded("PNG"))
    client = client_of(path, images=str(tmp_path))
    assert client.get("session")["images"] is True
    answer = client.http.get("/api/image", params={"store": "a", "id": "i"})
    assert answer.content == encoded("PNG")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("record", store="a", id="i")["has_image"] is True
    assert client.get("record", store="a", id="j")["has_image"] is False
    assert client.refused("image", 404, store="a", id="j") == "E-VIEW-NO-IMAGE"
    assert client_of(path).refused("image", 404, store="a", id="i") == "E-VIEW-NO-IMAGE"
