"""Decoder processes: pixels in shared memory, a crash that costs one record."""

import dataclasses
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import photograph
from PIL import Image

from clipfeat.cli.extract import MOST_PIXELS
from clipfeat.cli.main import main
from clipfeat.extract.pixels.decoding import NICENESS, Decoders, Limits
from clipfeat.extract.pixels.images import MAX_PIXELS, Picture, load_picture
from clipfeat.extract.planning.recipe import Recipe
from clipfeat.featstore import Status
from clipfeat.featstore.geometry import BICUBIC, RGB, Stretch
from clipfeat.manifests.headers import pillow

SHAPE = (48, 64, 3)
RECIPE = Recipe("own", (Stretch(64, 64, **BICUBIC), RGB()), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
LIMITS = Limits(memory=1 << 29, seconds=0.3)


def load(path: str, folder: Path) -> Picture:
    """Return an image as it is, or do what the name of a bad file says."""
    if path == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    while path == "endless":
        pass
    if path == "asleep":  # as for a slow disk, which is not the file's fault
        time.sleep(2 * LIMITS.seconds)
        path = "p000.jpg"
    if path.startswith("once "):  # as where memory is short for a moment
        path = path.removeprefix("once ")
        if not (folder / f"{path}.tried").exists():
            (folder / f"{path}.tried").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
    if path == "missing":
        return Picture(Status.MISSING, "no such file", 0, 0, "")
    with Image.open(folder / path) as image:
        return Picture(Status.OK, "", *image.size, "", np.asarray(image.convert("RGB")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(names(*range(12))):
        photograph(number, 64, 48).save(folder / name)
    return folder


@pytest.fixture
def decoders(folder):
    bytes_each = 16 * int(np.prod(SHAPE))
    load_one = functools.partial(load, folder=folder)
    with Decoders(load_one, 2, 2, bytes_each, limits=LIMITS) as pool:
        yield pool


def names(*numbers):
    return [f"p{number:03}.jpg" for number in numbers]


def check(decoding, folder, paths):
    """Pixels of ok pictures are the files' own, those of others and of the padding are black."""
    pictures = decoding.result().pictures
    for position, path in enumerate(paths):
        if pictures[position].status == Status.OK:
            with Image.open(folder / path) as image:
                np.testing.assert_array_equal(decoding.pixels[position], np.asarray(image))
        else:
            assert not decoding.pixels[position].any()
    assert not decoding.pixels[len(paths) :].any()
    return [picture.status.value for picture in pictures]


def test_the_largest_limit_that_can_be_typed_is_one_that_a_system_takes(folder, monkeypatch):
    load_one = functools.partial(load, folder=folder)
    limits = Limits.of(MOST_PIXELS, 36)
    with Decoders(load_one, 1, 1, int(np.prod(SHAPE)), limits=limits) as pool:
        check(pool.submit(names(0), 1, SHAPE), folder, names(0))
    words = ["clipfeat", "extract", "--model", "RN50", "--max-pixels", str(MOST_PIXELS + 1)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2


def test_batches_share_memory_with_the_processes(decoders, folder):
    first, second = names(*range(10)), names(11, 3, 5)
    one, two = decoders.submit(first, 16, SHAPE), decoders.submit(second, 16, SHAPE)
    assert check(two, folder, second) == ["ok"] * 3
    assert check(one, folder, first) == ["ok"] * 10
    one.release()
    third = decoders.submit(names(7), 4, SHAPE)
    assert check(third, folder, names(7)) == ["ok"]


def test_a_slot_used_again_keeps_nothing_of_what_was_there(decoders, folder):
    before = decoders.submit(names(*range(12)), 12, SHAPE)
    before.result()
    before.release()
    paths = ["missing", "p001.jpg"]
    assert check(decoders.submit(paths, 12, SHAPE), folder, paths) == ["missing", "ok"]


def test_decoders_let_others_have_the_next_core(decoders, folder):
    check(decoders.submit(names(0), 1, SHAPE), folder, names(0))
    here = psutil.Process()
    children = [child for child in here.children() if "pixels.decoding" in str(child.cmdline())]
    assert here.nice() + NICENESS in {child.nice() for child in children}


def test_a_crash_costs_its_own_image(decoders, folder):
    paths = [*names(0, 1), "segfault", *names(2, 3), "segfault", *names(4)]
    crashing, other = decoders.submit(paths, 8, SHAPE), decoders.submit(names(5, 6), 8, SHAPE)
    statuses = check(crashing, folder, paths)
    assert statuses == ["ok", "ok", "undecodable", "ok", "ok", "undecodable", "ok"]
    assert "died (exit code -11)" in crashing.result().pictures[2].reason
    assert check(other, folder, names(5, 6)) == ["ok", "ok"]
    crashing.release()
    assert check(decoders.submit(names(9), 8, SHAPE), folder, names(9)) == ["ok"]


def test_the_image_after_one_that_crashes_is_tried_again(decoders, folder):
    paths = ["segfault", "once p001.jpg", "endless", "once p002.jpg"]
    pictures = decoders.submit(paths, 4, SHAPE).result().pictures
    assert [picture.status for picture in pictures] == ["undecodable", "ok", "undecodable", "ok"]


def test_an_image_that_is_never_done_costs_its_own_record(decoders, folder):
    paths = [*names(0), "endless", *names(1, 2), "asleep"]
    decoding = decoders.submit(paths, 8, SHAPE)
    pictures = decoding.result().pictures
    assert [picture.status for picture in pictures] == ["ok", "undecodable", "ok", "ok", "ok"]
    assert pictures[1].reason == "decoding it takes more than 0.3 s of processor time"
    np.testing.assert_array_equal(decoding.pixels[4], decoding.pixels[0])


def test_an_image_that_takes_more_memory_than_it_may(tmp_path):
    Image.new("1", (16_000, 9_000)).save(tmp_path / "white.png")  # 144 MB in memory
    photograph(0, 64, 48).save(tmp_path / "small.png")
    load_one = functools.partial(load_picture, root=str(tmp_path), recipe=RECIPE)
    paths = ["small.png", "white.png", "small.png"]
    for memory, expected in ((100 << 20, ["ok", "too_large", "ok"]), (400 << 20, ["ok"] * 3)):
        with Decoders(load_one, 1, 1, 3 * 64 * 64 * 3, limits=Limits(memory, 60)) as pool:
            pictures = pool.submit(paths, 3, (64, 64, 3)).result().pictures
            assert [picture.status for picture in pictures] == expected
    assert pictures[1].reason == ""


def test_limits_leave_room_for_the_largest_image_that_is_allowed():
    assert Limits.of(1000, 1) == (24 * MAX_PIXELS, 120)  # 4 GiB and two minutes
    large = Limits.of(10 * MAX_PIXELS, 36)
    assert large.memory == 240 * MAX_PIXELS
    assert large.seconds == pytest.approx(36 * 10 * MAX_PIXELS / 1.5e6)


def report_state(path: str, root: str) -> Picture:
    """Return the picture in a file with the state of its process as its reason."""
    picture = load_picture(path, root, RECIPE)
    process = psutil.Process()
    state = (
        len(logging.getLogger("PIL").handlers), len(warnings.filters), process.num_threads(),
        process.num_fds(), process.memory_info().rss,
    )  # fmt: skip
    return dataclasses.replace(picture, reason=json.dumps(state))


@pytest.mark.slow
def test_a_decoder_does_not_grow(folder):
    """Nor become slower: each image once added a handler and a warnings filter."""
    load_one = functools.partial(report_state, root=str(folder))
    paths = names(*range(12)) * 20
    with Decoders(load_one, 1, 1, 240 * 64 * 64 * 3, limits=LIMITS) as pool:
        states = []
        for _ in range(10):
            decoding = pool.submit(paths, 240, (64, 64, 3))
            states.append(json.loads(decoding.result().pictures[-1].reason))
            decoding.release()
    first, last = states[0], states[-1]  # after 240 and after 2,400 images
    assert last[:4] == first[:4]
    assert last[4] - first[4] < 2 << 20  # bytes


def test_using_pillow_adds_no_handler_and_no_filter():
    before = pillow()
    state = len(logging.getLogger("PIL").handlers), len(warnings.filters)
    assert all(pillow() is before for _ in range(20_000))
    assert (len(logging.getLogger("PIL").handlers), len(warnings.filters)) == state


def test_a_picture_of_another_size_than_planned_is_refused_with_both(decoders):
    picture = decoders.submit(names(0), 4, (48, 48, 3)).result().pictures[0]
    assert (picture.status, picture.width, picture.height) == ("failed", 64, 48)
    assert "64x48 pixels are not what the manifest says" in picture.reason


@pytest.mark.slow
def test_decoders_end_with_the_process_that_started_them(folder):
    code = (
        "import functools, time\n"
        "import psutil\n"
        "from pathlib import Path\n"
        "from test_decoding import LIMITS, load\n"
        "from clipfeat.extract.pixels.decoding import Decoders\n"
        f"load = functools.partial(load, folder=Path({str(folder)!r}))\n"
        "decoders = Decoders(load, 2, 1, 10**6, limits=LIMITS)\n"
        "print(*[child.pid for child in psutil.Process().children()], flush=True)\n"
        "time.sleep(60)\n"
    )
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=here
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.02)
