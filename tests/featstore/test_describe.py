"""What people say about a store, and the documents that lie in it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from refused import refuses
from stores import extend_store, make_store

from clipfeat.cli.main import clipfeat
from clipfeat.featstore import FeatureStore, StoreError, describe, repair, verify
from clipfeat.featstore.layout import MAX_DOCUMENT_BYTES
from clipfeat.featstore.writing.lock import StoreLock

GRID = np.ones((1, 1, 2), np.float16)


@pytest.fixture
def path(tmp_path):
    return make_store(tmp_path / "s", {"a": GRID})


def test_texts_are_kept_apart_from_the_digest(path):
    before = FeatureStore.open(path)
    assert before.metadata.about.licence is None  # never guessed
    describe(path, {"title": "COCO", "licence": "CC-BY-4.0", "source_licence": "Flickr's terms"})
    describe(path, {"title": None, "homepage": "https://example.org"})
    after = FeatureStore.open(path)
    assert after.digest == before.digest
    about = after.metadata.about
    assert (about.title, about.licence, about.homepage) == (
        None,
        "CC-BY-4.0",
        "https://example.org",
    )
    assert verify(path) == []
    assert not (path / "journal").exists()


def test_an_update_keeps_them(path):
    describe(path, {"citation": "@misc{a}"})
    extend_store(path, {"a": GRID, "b": GRID})
    store = FeatureStore.open(path)
    assert (store.metadata.generation, store.metadata.about.citation) == (1, "@misc{a}")


@pytest.mark.parametrize("about", [{"licence": 5}, {"licence": "x" * 70_000}, {"lizenz": "x"}])
def test_other_fields_and_texts_are_refused(path, about):
    text = (path / "store.json").read_text()
    with refuses("E-STORE-ABOUT", next(iter(about)), kind=StoreError):
        describe(path, about)
    assert (path / "store.json").read_text() == text


def test_a_store_that_is_being_written_is_refused(path):
    (path / "journal").mkdir()
    with StoreLock(path), refuses("E-LOCK-HELD", kind=StoreError):
        describe(path, {"title": "x"})


class TestDocuments:
    def test_they_belong_to_the_store_and_are_checked_where_listed(self, path):
        (path / "README.md").write_text("# Features\n")
        (path / "documents").mkdir()
        (path / "documents/thumbnails.parquet").write_bytes(b"x")
        (path / "store.json.minisig").write_text("untrusted comment\n")
        assert verify(path) == []
        described = describe(path, {})
        assert list(described.documents) == ["README.md", "documents/thumbnails.parquet"]
        (path / "README.md").write_text("# Other features\n")
        (path / "documents/thumbnails.parquet").unlink()
        problems = {problem.path: problem.problem for problem in verify(path)}
        assert problems == {
            "README.md": "sha256 is not the one in store.json",
            "documents/thumbnails.parquet": "the file is missing",
        }
        assert np.array_equal(FeatureStore.open(path)["a"], GRID)  # never needed for reading
        assert {problem.path for problem in repair(path).left} == set(problems)
        describe(path, {})
        assert verify(path) == []

    def test_one_that_no_copy_would_accept_is_refused(self, path):
        with (path / "README.md").open("wb") as file:
            file.truncate(MAX_DOCUMENT_BYTES + 1)
        with refuses("E-STORE-DOCUMENT", "README.md", kind=StoreError):
            describe(path, {})

    def test_other_files_and_links_do_not_belong(self, path):
        (path / "notes.txt").write_text("x")
        (path / "documents").mkdir()
        (path / "documents/.hidden").write_text("x")
        (path / "LICENSE").symlink_to(path / "notes.txt")
        describe(path, {})
        assert {problem.path for problem in verify(path)} == {
            "LICENSE",
            "documents/.hidden",
            "notes.txt",
        }


def test_the_command(path):
    (path / "README.md").write_text("x")
    words = ["store", "describe", str(path), "--licence", "CC0", "--title", "A"]
    done = CliRunner().invoke(clipfeat, words)
    assert done.output == "title: A\nlicence: CC0\ndocument: README.md\n"
    done = CliRunner().invoke(clipfeat, ["store", "describe", str(path), "--title", "", "--json"])
    record = json.loads(done.output)
    assert record["about"]["title"] is None
    assert record["about"]["licence"] == "CC0"
    info = CliRunner().invoke(clipfeat, ["store", "info", str(path)])
    assert "licence   CC0" in info.output
