"""What a person and a script see of a run: the line, the table, the files, the estimate."""

import io
import json
import sys

import pytest
from click.testing import CliRunner
from logged import logged
from pictures import write_photographs
from stores import make_identity

from clipfeat.base.errors import ExtractUsageError
from clipfeat.cli.main import clipfeat
from clipfeat.extract.backbones.backbone import largest_batch
from clipfeat.extract.executors.results import BatchResult, StageTimings
from clipfeat.extract.planning.plan import check_record_sizes
from clipfeat.extract.report import LOG_SECONDS, Progress, duration
from clipfeat.featstore import GridShape


def batch(images=4, refused=0, device=0.9, warning=""):
    timings = StageTimings(wall=1.0, device=device)
    return BatchResult(images, refused, 1_000_000, timings, warning=warning)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_that_changes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with logged() as lines, Progress(8, 0) as progress:
        progress.add(batch())
        progress.add(batch(refused=1, device=0.7))
    shown = terminal.getvalue().split("\r")[-1]
    assert "100%" in shown
    assert "8/8 images, 1 without a record" in shown
    assert "device waited 20 %" in shown
    assert lines == []


def test_a_warning_has_a_line_of_its_own(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(8, 0) as progress:
        progress.add(batch())
        progress.add(batch(images=-4, warning="a process died"))
        progress.add(batch(images=8))
    warning = next(line for line in terminal.getvalue().split("\n") if "died" in line)
    assert warning.split("\r")[-1] == "a process died"  # written over what stood there


def test_a_log_has_lines_without_carriage_returns_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, LOG_SECONDS + 1, LOG_SECONDS + 2, 2 * LOG_SECONDS + 2])
    monkeypatch.setattr("clipfeat.extract.report.time.monotonic", lambda: next(clock))
    with logged() as lines, Progress(100, 20) as progress:
        for _ in range(4):
            progress.add(batch())
    assert [line.partition(" images")[0] for line in lines] == ["28/100", "36/100"]
    assert lines[1].endswith("0.3 images/s, 0.1 MB/s, device waited 10 %, 4 min left")
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in lines))


def test_the_share_of_waiting_is_that_of_all_devices():
    first = StageTimings(wall=10.0, device=9.0, decode=3.0)
    both = first + StageTimings(wall=10.0, device=5.0)
    assert both == StageTimings(wall=20.0, device=14.0, decode=3.0)
    assert both.waited == pytest.approx(0.3)
    assert StageTimings().waited == 0.0
    table = both.text(100).splitlines()
    assert table[0].split()[:5] == ["device", "14.00", "s", "140.00", "ms/image"]
    assert "the device waited 30.0 % of it" in table[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (5400.0, "1 h 30 min"), (180_000.0, "2 d 2 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_batch_fits_the_memory():
    # 50 MB for an image, 300 MB whatever their number: (0.8 * free - 300) / 50, a power of two.
    peaks = {4: 500_000_000, 8: 700_000_000}
    assert largest_batch(1_000_000_000, peaks) == 8
    assert largest_batch(80_000_000_000, peaks) == 256
    assert largest_batch(500_000_000, peaks) == 2
    assert largest_batch(100_000_000, peaks) == 1  # less than it needs beside; it may still do


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_photographs(tmp_path_factory.mktemp("images"), 10)
    (folder / "broken.jpg").write_bytes((folder / "p000.jpg").read_bytes()[:300])
    return folder


def extract(images, out, *more):
    arguments = ["extract", "--images", str(images), "--out", str(out), "--model", "RN50"]
    arguments += ["--pretrained", "none", "--recipe", "square:64", "--device", "cpu", *more]
    done = CliRunner().invoke(clipfeat, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_figures_of_a_run_lie_beside_the_store(images, tmp_path):
    done = extract(images, tmp_path / "s.clipfeat", "--json")
    printed = json.loads(done.stdout)
    assert json.loads((tmp_path / "s.run.json").read_text()) == printed
    assert printed["images"] == 11
    assert printed["bytes"] > 10_000
    assert printed["images_per_second"] == pytest.approx(11 / printed["seconds"])
    assert 0 <= printed["device_waited"] < 1
    reason = printed["refused"][0]
    assert (reason["images"], reason["status"], reason["example"]) == (1, "undecodable", "broken")
    stages = printed["stage_seconds"]
    assert all(stages[name] > 0 for name in ("wall", "device", "decode", "encode", "write"))


def test_profile_says_where_the_time_went(images, tmp_path):
    lines = extract(images, tmp_path / "s", "--profile").stdout.splitlines()
    assert [line.split()[0] for line in lines[-5:]] == [
        "device", "decode", "encode", "write", "wall",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_estimates_and_leaves_nothing(images, tmp_path):
    done = extract(images, tmp_path / "s", "--dry-run", "--json", "--batch-size", "4")
    found = json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []
    assert (found["images"], found["grids"], found["dim"]) == (11, {"2x2": 11}, 2048)
    assert (found["shards"], found["devices"]) == (1, 1)
    assert found["free_bytes"] > 0
    assert found["seconds"] > 0
    assert (found["sampled"], found["refused"]) == (11, 1)
    real = json.loads(extract(images, tmp_path / "s", "--json").stdout)
    assert found["bytes"] == pytest.approx(real["bytes"], rel=0.2)  # one image more is refused
    text = extract(images, tmp_path / "t", "--dry-run").stdout
    assert "grids   2x2x2048 (11 images)" in text
    assert "bad     1 of the 11 tried gave no record" in text


def test_a_grid_that_no_store_holds_is_refused_before_any_work():
    identity = make_identity(65536, dtype="float32")
    check_record_sizes([GridShape(16, 32), GridShape(4, 4)], identity)  # 2**27 bytes
    with pytest.raises(ExtractUsageError, match="16x33x65536 float32 has 138,412,032 bytes"):
        check_record_sizes([GridShape(16, 32), GridShape(16, 33)], identity)
