"""What stops `clipfeat extract`, and how it resumes: signals, full disks, folders that go."""

import json
import os
import re
import signal
import time

import pytest
from pictures import write_photographs

from clipfeat.featstore import FeatureStore
from clipfeat.featstore.audit.verify import verify

IMAGES = 40

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), IMAGES)


def extract(images, out, *more):
    return ("extract", "--images", images, "--out", out, "--model", "RN50", "--pretrained", "none",
            "--recipe", "square:64", "--device", "cpu", "--batch-size", "4", "--shard-size", "4",
            "--decoders", "1", "--json", *more)  # fmt: skip


@pytest.fixture(scope="module")
def digest(clipfeat, images, tmp_path_factory):
    """The digest of a run that nothing stops."""
    done = clipfeat.run(*extract(images, tmp_path_factory.mktemp("whole") / "s"))
    assert done.code == 0, done.errors
    return json.loads(done.text)["digest"]


def check_resumes(clipfeat, images, out, digest, *more):
    """The same command ends with the same digest; return what it printed to stderr."""
    done = clipfeat.run(*extract(images, out, *more))
    assert done.code == 0, done.errors
    assert json.loads(done.text)["digest"] == digest
    assert verify(out) == []
    return done.errors


def assert_one_line(line, *texts):
    assert "Traceback" not in line.errors
    last = line.errors.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    for text in texts:
        assert text in last


def wait_for_the_children(line):
    """Wait until no process is left of a command line that has ended."""
    while True:  # they notice that their parent is gone
        try:
            os.killpg(line.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "group", "code", "word", "procs"),
    [
        (signal.SIGTERM, False, 143, "Terminated", 1),  # from a scheduler
        # Ctrl-C goes to the whole group.
        (signal.SIGINT, True, 130, "Interrupted", 1),
        (signal.SIGINT, True, 130, "Interrupted", 2),
    ],
)
def test_a_signal_drops_unfinished_shards_and_says_so(
    clipfeat, images, digest, tmp_path, number, group, code, word, procs
):
    out = tmp_path / "s"
    line = clipfeat.start(*extract(images, out, "--procs", procs))
    line.wait_for("journal/0*.receipt", out)
    assert line.end(number, group=group) == code, line.errors
    assert "Traceback" not in line.errors
    assert re.search(r"\d+ of 40 images written; unfinished shards are drop", line.errors)
    assert line.errors.rstrip().endswith(f"{word}; run the same command again to resume")
    assert not list(out.rglob("*.tmp"))
    errors = check_resumes(clipfeat, images, out, digest)  # on one process, whatever it was
    assert "Taking over" not in errors
    assert "images already extracted; resuming" in errors


@pytest.mark.parametrize("procs", [1, 2])
def test_a_kill_leaves_no_process_and_a_lock_to_take_over(
    clipfeat, images, digest, tmp_path, procs
):
    out = tmp_path / "s"
    line = clipfeat.start(*extract(images, out, "--procs", procs))
    line.wait_for("journal/0*.receipt", out)
    line.end(signal.SIGKILL)
    wait_for_the_children(line)
    errors = check_resumes(clipfeat, images, out, digest)
    assert f"Taking over the lock of process {line.pid} on " in errors


def test_the_lock_of_another_host_is_broken_on_demand(clipfeat, images, digest, tmp_path):
    out = tmp_path / "s"
    (out / "journal").mkdir(parents=True)
    holder = {"host": "elsewhere", "pid": 7, "since": "2026-11-23T10:00:00+00:00"}
    (out / "journal" / "lock").write_text(json.dumps(holder))
    refused = clipfeat.run(*extract(images, out))
    assert refused.code == 1
    assert_one_line(refused, "is being written by process 7 on elsewhere", "add --break-lock")
    check_resumes(clipfeat, images, out, digest, "--break-lock")


@pytest.mark.parametrize(
    ("condition", "file"),
    [
        ({"largest_file": 20_000}, "journal/"),  # a shard does not fit
        ({"largest_file_at_finish": 2_000}, "index.parquet"),
    ],
)
def test_a_full_disk_ends_the_run_with_a_line(clipfeat, images, digest, tmp_path, condition, file):
    line = clipfeat.run(*extract(images, tmp_path / "s"), **condition)
    assert line.code == 1
    assert_one_line(line, "File too large", f"{tmp_path}/s/{file}")
    assert not list(tmp_path.rglob("c.*.tmp"))
    check_resumes(clipfeat, images, tmp_path / "s", digest)


def test_a_folder_that_cannot_be_written(clipfeat, images, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    line = clipfeat.run(*extract(images, tmp_path / "locked" / "s"), unprivileged=True)
    assert line.code == 2
    assert_one_line(line, f"{tmp_path}/locked", "[E-PATH-WRITE]")
    assert not list((tmp_path / "locked").iterdir())


def test_a_folder_that_vanishes(clipfeat, images, tmp_path):
    out = tmp_path / "s"
    line = clipfeat.start(*extract(images, out))
    line.wait_for("journal/0*.receipt", out)
    out.rename(tmp_path / "away")
    assert line.wait() == 1
    assert_one_line(line, "No such file or directory", f"{out}/")
    assert not out.exists()


CRASHES = """
import io, os, signal
import PIL.Image

stock = PIL.Image.open

def open(file, *arguments, **more):
    if isinstance(file, io.BytesIO) and file.getvalue().endswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return stock(file, *arguments, **more)

PIL.Image.open = open
"""


@pytest.fixture
def crashing(tmp_path):
    """A folder for the path of decoder processes: Pillow crashes over files that end in CRASH."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(CRASHES)
    return str(tmp_path / "path")


DIED = "the process that decoded it died (exit code -11): it crashes the image library, or"


@pytest.mark.parametrize("procs", [1, 2])
def test_a_file_that_crashes_pillow_costs_its_own_record(clipfeat, tmp_path, crashing, procs):
    images, out = write_photographs(tmp_path / "images", IMAGES), tmp_path / "s"
    with (images / "p013.jpg").open("ab") as file:
        file.write(b"CRASH")
    line = clipfeat.run(*extract(images, out, "--procs", procs), python_path=crashing)
    assert line.code == 0, line.errors
    assert "Traceback" not in line.errors
    store = FeatureStore.open(out)
    assert len(store) == IMAGES - 1
    (refused,) = (row for row in store.index if row.status != "ok")
    assert (refused.image_id, refused.status) == ("p013", "undecodable")
    assert refused.reason.startswith(DIED)
    assert verify(out) == []
    # What crashed one version of the image library may be read by another.
    again = clipfeat.run(*extract(images, out, "--retry", "undecodable"))
    assert again.code == 0, again.errors
    assert len(FeatureStore.open(out)) == IMAGES


def test_files_that_all_crash_pillow_end_the_run_with_a_line(clipfeat, tmp_path, crashing):
    images, out = write_photographs(tmp_path / "images", 10), tmp_path / "s"
    for path in images.iterdir():
        with path.open("ab") as file:
            file.write(b"CRASH")
    line = clipfeat.run(*extract(images, out), python_path=crashing)
    assert line.code == 1
    assert_one_line(line, "no store was written: 10 undecodable", DIED, "[E-STORE-NO-RECORDS]")
    assert not out.exists()
    wait_for_the_children(line)
