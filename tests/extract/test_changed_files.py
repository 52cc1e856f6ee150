"""Image files that are replaced after their extraction: they are counted, and renewed on demand."""

import contextlib
import hashlib
import os
import shutil
import tarfile

import numpy as np
import pytest
from logged import logged
from pictures import photograph, write_photographs
from refused import refuses

from clipfeat.base.errors import ExtractError, UsageError
from clipfeat.extract import ExtractConfig, extract_images, source_files
from clipfeat.extract.report import Progress
from clipfeat.extract.source_files import SourceFiles, file_sha256, file_stamp
from clipfeat.featstore import FeatureStore, Status, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Ids, Part
from clipfeat.featstore.writing.parts import commit_parts
from clipfeat.manifests import folder_manifest

IMAGES = 10


pytestmark = pytest.mark.usefixtures("one_backbone")


def run(folder, **changes):
    """Extract folder/images into folder/s; return the report and what was logged."""
    config = ExtractConfig(**{"model": "RN50", "pretrained": "none", "recipe": "square:64",
                              "device": "cpu", "batch_size": 4, "shard_size": 4, "decoders": 1,
                              **changes})  # fmt: skip
    with logged() as lines:
        return extract_images(folder_manifest(folder / "images"), folder / "s", config), lines


def renew(folder):
    return run(folder, retry=("changed",))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_photographs(folder / "images", IMAGES)
    run(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy with the times of its files."""
    shutil.copytree(made, tmp_path / "f")
    return tmp_path / "f"


def replace_at_the_same_size(path, seed):
    """Put another picture in a file of as many bytes: a JPEG ends where it says."""
    size = path.stat().st_size
    before = path.read_bytes()
    for quality in range(90, 20, -5):
        photograph(seed, 64).save(path, quality=quality)
        if (less := size - path.stat().st_size) >= 0:
            path.write_bytes(path.read_bytes() + bytes(less))
            break
    assert path.stat().st_size == size
    assert path.read_bytes() != before


def touch(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_nothing_is_said_of_files_that_are_as_they_were(folder):
    assert run(folder)[1][1:] == [f"{folder}/s is already complete"]


def test_replaced_files_are_counted_and_renewed_and_touched_ones_are_not(folder):
    old = FeatureStore.open(folder / "s")
    kept = {image_id: old[image_id] for image_id in old.ids}
    replace_at_the_same_size(folder / "images" / "p000.jpg", 100)
    touch(folder / "images" / "p000.jpg")  # a replacement in the same tick of the clock
    photograph(101, 64, 48).save(folder / "images" / "p003.jpg", quality=50)
    touch(folder / "images" / "p006.jpg")
    said = run(folder)[1]
    assert said[1:] == [
        "3 files of another size or time than when extracted; to compare the content of these "
        "files and extract the changed ones again, add --retry changed",
        f"{folder}/s is already complete",
    ]
    assert FeatureStore.open(folder / "s").digest == old.digest

    report, said = renew(folder)
    assert said[1:] == [
        "3 files read again, 2 of them changed",
        f"{folder}/s is finished; 2 changed images to extract again",
    ]
    new = report.store
    assert (report.images, new.metadata.parents, len(new)) == (2, (old.digest,), IMAGES)
    shutil.copytree(folder / "images", folder.with_name("whole") / "images")
    whole = run(folder.with_name("whole"))[0].store
    for image_id in new.ids:
        np.testing.assert_array_equal(new[image_id], whole[image_id])
        same = np.array_equal(new[image_id], kept[image_id])
        assert same == (image_id not in {"p000", "p003"})
    assert verify(folder / "s", Depth.DEEP) == []
    hashes = {row.image_id: row.source_sha256 for row in new.index}
    for path in (folder / "images").iterdir():
        assert hashes[path.stem] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run(folder)[1][1:] == [f"{folder}/s is already complete"]  # the touched one is known


def test_an_image_of_another_size_in_pixels_is_renewed_too(folder):
    photograph(7, 99, 33).save(folder / "images" / "p007.jpg")
    with refuses("E-STORE-OTHER-IMAGES", "--retry changed", kind=StoreError):
        run(folder)
    store = renew(folder)[0].store
    (row,) = (row for row in store.index if row.image_id == "p007")
    assert (row.width, row.height) == (99, 33)
    assert verify(folder / "s", Depth.DEEP) == []


def test_a_file_that_was_replaced_by_something_else_has_no_record_any_more(folder):
    """Nor does it keep that of the file that was, where no other file has changed."""
    (folder / "images/p001.jpg").write_bytes(b"<html>")
    store = renew(folder)[0].store
    assert ("p001" in store, store.metadata.counts[Status.UNDECODABLE]) == (False, 1)
    assert verify(folder / "s", Depth.DEEP) == []
    assert renew(folder)[1][-1].endswith("is already complete")


def test_without_the_table_every_file_is_read_on_demand(folder):
    digest = FeatureStore.open(folder / "s").digest
    (folder / "s.files.parquet").unlink()
    said = run(folder)[1]
    assert said[1].startswith("the earlier size and time of 10 files are not known")
    report, said = renew(folder)
    assert said[1] == "10 files read again, 0 of them changed"
    assert report.store.digest == digest
    assert run(folder)[1][1:] == [f"{folder}/s is already complete"]  # now they are known
    (folder / "s.files.parquet").write_bytes(b"no table")
    with refuses("E-FILES-TABLE", kind=UsageError):
        run(folder)


def test_times_are_no_part_of_the_digest(folder, tmp_path):
    for path in (folder / "images").iterdir():
        touch(path)
    digest = FeatureStore.open(folder / "s").digest
    shutil.rmtree(folder / "s")
    assert run(folder)[0].store.digest == digest


@contextlib.contextmanager
def stopped():
    """Interrupt a run when its first shard is written."""
    add = Progress.add

    def stop(self, result):
        add(self, result)
        if result.receipt is not None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_renewal_that_was_cut_off_resumes(folder):
    for number in range(6):
        photograph(200 + number, 64 + number % 3 * 10).save(folder / f"images/p{number:03}.jpg")
    with stopped():
        renew(folder)
    report, said = renew(folder)
    assert "6 files read again, 6 of them changed" in said
    assert "4 images already extracted; resuming" in said
    assert report.images == 2
    assert verify(folder / "s", Depth.DEEP) == []
    assert run(folder)[1][1:] == [f"{folder}/s is already complete"]


def test_a_file_replaced_between_a_run_that_was_cut_off_and_the_next_is_said(made, tmp_path):
    shutil.copytree(made / "images", tmp_path / "images")
    with stopped():
        run(tmp_path)
    photograph(300, 64).save(tmp_path / "images/p000.jpg")  # which is extracted already
    said = run(tmp_path)[1]
    assert "changed after an earlier run had read them: 1; --retry changed" in said[-1]
    assert renew(tmp_path)[1][1] == "1 file read again, 1 of them changed"


def test_parts_have_tables_of_their_own(made, tmp_path):
    shutil.copytree(made / "images", tmp_path / "images")
    for number in (1, 2):
        run(tmp_path, part=Part(number, 2))
    commit_parts(tmp_path / "s")
    names = {path.name for path in tmp_path.glob("s.files*")}
    assert names == {"s.files-1-of-2.parquet", "s.files-2-of-2.parquet"}
    assert run(tmp_path)[1][1:] == [f"{tmp_path}/s is already complete"]
    touch(tmp_path / "images" / "p009.jpg")
    assert run(tmp_path)[1][1].startswith("1 file of another size or time")


def test_files_of_every_kind_have_a_stamp_and_a_hash(tmp_path):
    write_photographs(tmp_path, 2)
    (tmp_path / "view").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "p000.jpg", "in/p000.jpg")
    root, content = str(tmp_path), (tmp_path / "p000.jpg").read_bytes()
    plain, archive = (tmp_path / "p000.jpg").stat(), (tmp_path / "a.tar").stat()
    assert file_stamp(root, "p000.jpg", None) == (len(content), plain.st_mtime_ns)
    assert file_stamp(root, "a.tar/in/p000.jpg", None) == (archive.st_size, archive.st_mtime_ns)
    assert file_stamp(root, "gone.jpg", None) == (-1, -1)
    assert file_stamp(root, "p000.jpg/p000.jpg", None) == (-1, -1)
    for name in ("p000.jpg", "a.tar/in/p000.jpg"):
        assert file_sha256(root, name, None) == hashlib.sha256(content).hexdigest()


def test_a_viewpoint_is_as_old_as_its_latest_view(tmp_path):
    folder = tmp_path / "scan" / "v"
    folder.mkdir(parents=True)
    for view in range(36):
        (folder / f"{view:02}.jpg").write_bytes(b"x" * view)
        os.utime(folder / f"{view:02}.jpg", ns=(0, 1000 + view % 7))
    assert file_stamp(str(tmp_path), "scan/v", 36) == (sum(range(36)), 1006)
    every = b"".join(b"x" * view for view in range(36))
    assert file_sha256(str(tmp_path), "scan/v", 36) == hashlib.sha256(every).hexdigest()


ODD = (b"a\\b", b"caf\xe9")  # a backslash, a byte that is not UTF-8


def test_files_with_odd_names_have_a_stamp_and_a_hash(tmp_path):
    views = [b"%d" % view for view in range(36)]
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name in ODD:
            file = tmp_path / os.fsdecode(name + b".jpg")
            file.write_bytes(name)
            os.utime(file, ns=(0, 1000))
            archive.add(file, file.name)
            folder = tmp_path / "scan" / os.fsdecode(name)
            folder.mkdir(parents=True)
            for view in views:
                (folder / f"{int(view)}.jpg").write_bytes(view)
                os.utime(folder / f"{int(view)}.jpg", ns=(0, 1000 + int(view)))
    tar = (tmp_path / "t.tar").stat()
    every = b"".join(views)
    for name, path in zip(ODD, (r"a\\b", r"caf\xe9"), strict=True):
        for found, count, stamp, content in (
            (f"{path}.jpg", None, (len(name), 1000), name),
            (f"t.tar/{path}.jpg", None, (tar.st_size, tar.st_mtime_ns), name),
            (f"scan/{path}", 36, (len(every), 1035), every),
        ):
            assert file_stamp(str(tmp_path), found, count) == stamp
            sha256 = hashlib.sha256(content).hexdigest()
            assert file_sha256(str(tmp_path), found, count) == sha256


def test_a_replaced_file_with_an_odd_name_is_renewed(made, tmp_path):
    write_photographs(tmp_path / "images", 2)
    (tmp_path / "images/p000.jpg").rename(tmp_path / r"images/a\b.jpg")
    run(tmp_path)
    photograph(400, 64).save(tmp_path / r"images/a\b.jpg")
    assert run(tmp_path)[1][1].startswith("1 file of another size or time than when extracted")
    assert renew(tmp_path)[1][1] == "1 file read again, 1 of them changed"


def test_a_replaced_file_that_cannot_be_read_is_said(folder):
    manifest = folder_manifest(folder / "images")
    photograph(500, 64).save(folder / "images/p001.jpg")
    (folder / "images/p004.jpg").unlink()
    (folder / "images/p004.jpg").mkdir()  # which has a time, and cannot be read, even by root
    (folder / "images/p005.jpg").unlink()  # is gone, which is no change
    found = SourceFiles(manifest, folder / "s", None).changes(
        FeatureStore.open(folder / "s"), read=True
    )
    assert (found.changed, found.unreadable) == ({"p001"}, ("p004",))
    assert found.text(read=True) == (
        "1 file read again, 1 of them changed; 1 file could not be read, such as p004"
    )


def test_a_try_without_a_record_leaves_what_was_known(folder):
    (folder / "images/p002.jpg").write_bytes(b"<html>")
    renew(folder)
    for _ in range(2):
        with refuses("E-STORE-NO-RECORDS", kind=ExtractError):
            run(folder, retry=("undecodable",))
        assert run(folder)[1][1:] == [f"{folder}/s is already complete"]


def test_a_file_that_could_not_be_used_and_was_replaced_is_counted_once(folder):
    (folder / "images/p002.jpg").write_bytes(b"<html>")
    renew(folder)
    photograph(102, 64, 48).save(folder / "images/p002.jpg")
    report, said = renew(folder)
    assert said[-1] == f"{folder}/s is finished; 1 changed image to extract again"
    assert "p002" in report.store


def test_only_the_files_of_a_part_are_looked_at(made, tmp_path, monkeypatch):
    looked = []

    def stamp(root, path, views):
        looked.append(path)
        return file_stamp(root, path, views)

    monkeypatch.setattr(source_files, "file_stamp", stamp)
    files = SourceFiles(folder_manifest(made / "images"), tmp_path / "s", None)
    assert files.record(None, [Ids.of(["p003", "p007"])]) == 0
    planned = [Ids.of(["p001", "p003"])]
    assert files.record(None, [Ids.of(["p003", "p007"])], planned=planned) == 0
    assert looked == ["p003.jpg", "p007.jpg", "p001.jpg"]


def test_at_a_url_files_are_compared_by_their_content_alone(made, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(f"{made}/images/", "/changed-files/", recursive=True)
    manifest = type(folder_manifest(made / "images"))(
        "memory://changed-files", folder_manifest(made / "images").images
    )
    memory.pipe("/changed-files/p002.jpg", b"another file")
    files = SourceFiles(manifest, tmp_path / "s", None)
    store = FeatureStore.open(made / "s")
    assert files.changes(store, read=False).text(read=False) == ""
    assert files.changes(store, read=True).changed == {"p002"}
