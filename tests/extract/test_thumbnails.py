"""Small pictures in a store: of the right images, the same each time, and only of what was extracted."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from logged import logged
from pictures import write_photographs
from PIL import Image
from refused import refuses

from clipfeat.cli.main import clipfeat
from clipfeat.extract.thumbnails import write_thumbnails
from clipfeat.featstore import Depth, FeatureStore, verify
from clipfeat.featstore.card import thumbnails
from clipfeat.featstore.card.thumbnails import THUMBNAILS, read_thumbnails
from clipfeat.featstore.card.write import write_card
from clipfeat.featstore.report.sample import sample_rows

WORDS = [
    "extract", "--model", "RN50", "--pretrained", "none", "--recipe", "square:64", "--device", "cpu",
    "--batch-size", "4", "--decoders", "1",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_backbone")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_photographs(tmp_path_factory.mktemp("images"), 6)
    (folder / "text.jpg").write_text("this is not an image")
    large = Image.new("CMYK", (400, 100), (10, 200, 30, 0))
    large.save(folder / "large.jpg")
    return folder


@pytest.fixture(scope="module")
def path(images, tmp_path_factory):
    """A store with thumbnails and a card."""
    path = tmp_path_factory.mktemp("out") / "s.clipfeat"
    words = [*WORDS, "--images", str(images), "--out", str(path), "--thumbnails", "--card"]
    done = CliRunner().invoke(clipfeat, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path


def rows_of(path):
    return pq.read_table(path / THUMBNAILS).to_pylist()


def test_they_are_small_copies_of_the_images(images, path):
    rows = rows_of(path)
    store = FeatureStore.open(path)
    assert sorted(row["image_id"] for row in rows) == list(store.ids)
    for row in rows:
        with (
            Image.open(io.BytesIO(row["jpeg"])) as small,
            Image.open(images / f"{row['image_id']}.jpg") as image,
        ):
            whole = image.convert("RGB")
            assert small.format == "JPEG"
            # The longer side becomes 160; the photographs, of 64 to 84 pixels, are enlarged.
            scale = 160 / max(whole.size)
            assert small.size == tuple(round(side * scale) for side in whole.size)
            difference = np.asarray(small, int) - np.asarray(whole.resize(small.size), int)
            assert np.abs(difference).mean() < 6


def test_the_store_is_complete_and_its_page_shows_them(path):
    assert verify(path, Depth.DEEP) == []
    page = (path / "documents/card.html").read_text()
    assert page.count('class="photo"') == 7
    assert "data:image/jpeg;base64," in page


def test_they_do_not_change_the_digest_and_are_the_same_each_time(images, path):
    store = FeatureStore.open(path)
    before = (path / THUMBNAILS).read_bytes()
    assert write_thumbnails(store, str(images), 64) == 7
    assert FeatureStore.open(path).digest == store.digest
    assert (path / THUMBNAILS).read_bytes() == before
    write_card(path)


def test_the_first_of_a_sample_are_kept_in_its_order(images, path):
    store = FeatureStore.open(path)
    expected = [row.image_id for row in sample_rows(store, 100, 0)]
    assert [row["image_id"] for row in rows_of(path)] == expected
    assert write_thumbnails(store, str(images), 2) == 2
    assert [row["image_id"] for row in rows_of(path)] == expected[:2]
    assert write_thumbnails(store, str(images), 64) == 7
    write_card(path)


def test_a_file_that_was_replaced_is_left_out(images, path, tmp_path):
    other = tmp_path / "images"
    write_photographs(other, 6)
    Image.new("RGB", (70, 50)).save(other / "p003.jpg")
    store = FeatureStore.open(path)
    with logged() as lines:
        assert write_thumbnails(store, str(other), 64) == 5
    text = "\n".join(lines)
    assert "no thumbnail of 1 image: another file than the one extracted (sha256)" in text
    assert "no thumbnail of 1 image: no such file" in text  # large.jpg
    write_thumbnails(store, str(images), 64)
    write_card(path)


class TestReading:
    def test_by_id_and_file(self, path):
        store = FeatureStore.open(path)
        found = read_thumbnails(store)
        assert set(found) == {
            (r.image_id, r.source_sha256) for r in store.index if r.status == "ok"
        }

    @pytest.mark.parametrize("content", [b"", b"PAR1 no", b"\0" * 100])
    def test_a_broken_document_is_left_out(self, path, tmp_path, content):
        copy = self.copy(path, tmp_path)
        (copy / THUMBNAILS).write_bytes(content)
        with logged() as lines:
            assert read_thumbnails(FeatureStore.open(copy)) == {}
        assert "no thumbnails are shown" in "\n".join(lines)
        write_card(copy)

    def test_what_is_no_jpeg_or_too_large_is_left_out(self, path, tmp_path):
        copy = self.copy(path, tmp_path)
        rows = [("a", "b", b"<svg onload=alert(1)>"), ("c", "d", b"\xff\xd8\xff" + b"x" * 40_000)]
        rows.append(("e", "f", b"\xff\xd8\xff"))
        (copy / THUMBNAILS).write_bytes(thumbnails.thumbnails_table(rows))
        assert read_thumbnails(FeatureStore.open(copy)) == {("e", "f"): b"\xff\xd8\xff"}
        large = [(str(k), "x", b"\xff\xd8\xff" * 20_000) for k in range(64)]
        (copy / THUMBNAILS).write_bytes(thumbnails.thumbnails_table(large))
        with logged() as lines:
            assert read_thumbnails(FeatureStore.open(copy)) == {}
        assert "more than 2,097,152 bytes" in "\n".join(lines)

    @staticmethod
    def copy(path, tmp_path):
        import shutil

        return shutil.copytree(path, tmp_path / "copy.clipfeat")


def test_options_that_exclude_each_other(images, tmp_path):
    for more, code in (
        (["--thumbnails", "--recipe", "views"], "E-THUMBNAILS-VIEWS"),
        (["--card", "--shard-range", "1/2"], "E-CARD-PART"),
        (["--thumbnails", "5", "--shard-range", "1/2"], "E-CARD-PART"),
    ):
        with refuses(code):
            words = [*WORDS, "--images", str(images), "--out", str(tmp_path / "s"), *more]
            CliRunner().invoke(clipfeat, words, standalone_mode=False, catch_exceptions=False)
    assert not (tmp_path / "s").exists()


def test_a_readme_of_people_is_found_before_anything_is_computed(images, path, tmp_path):
    copy = TestReading.copy(path, tmp_path)
    (copy / "README.md").write_text("# By hand")
    with refuses("E-CARD-FILE"):
        words = [*WORDS, "--images", str(images), "--out", str(copy), "--card"]
        CliRunner().invoke(clipfeat, words, standalone_mode=False, catch_exceptions=False)
    assert (copy / "README.md").read_text() == "# By hand"
