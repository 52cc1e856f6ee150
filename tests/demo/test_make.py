"""`make demo` deletes what it made itself, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In place of the command: it makes the folder or the file that it was asked for, and extraction
# what stands beside a store; it fails where that is there already.
CLIPFEAT = """#!/bin/sh
command=$1
case $command in demo-data | demo-houses) mkdir -p "$2";; esac
while [ $# -gt 1 ]; do
    case $command$1 in
    extract--out)
        for beside in run.json files.parquet; do
            test ! -e "${2%.clipfeat}.$beside" && touch "${2%.clipfeat}.$beside" || exit 3
        done;;
    esac
    case $1 in -o) touch "$2";; --out) mkdir -p "$2" && touch "$2/store.json";; esac
    shift
done
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that make takes for a finished one, whose commands do next to nothing."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name, script in (("clipfeat", CLIPFEAT), ("python", "#!/bin/sh\n")):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    (folder / ".installed-{}.{}".format(*sys.version_info)).touch()
    return folder


def make(venv: Path, target: str, demo: Path | str) -> subprocess.CompletedProcess[str]:
    words = ["make", "-C", ROOT, target, f"PYTHON={sys.executable}", f"VENV={venv}", f"DEMO={demo}"]
    words.append("BENCH_VENV=" + str(venv / "none"))
    return subprocess.run(words, capture_output=True, text=True)


def test_what_was_trained_beside_the_demo_stays(venv: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    done = make(venv, "demo", demo)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in demo.iterdir()}
    assert made >= {"data", "images.parquet", "scenes.clipfeat", "demo-vqa", "demo-vqa-blind"}
    mine = [demo / name for name in ("pretrain", "vqa", "vqa-pythia", "caption")]
    for run in mine:
        run.mkdir()
        (run / "best.safetensors").write_text("hours")
    (demo / "scenes.clipfeat" / "of another model").touch()
    (demo / "demo-vqa" / "best.safetensors").touch()
    assert make(venv, "demo", demo).returncode == 0
    assert [(run / "best.safetensors").read_text() for run in mine] == ["hours"] * 4
    assert {path.name for path in demo.iterdir()} == made | {run.name for run in mine}
    assert not (demo / "scenes.clipfeat" / "of another model").exists()
    assert not (demo / "demo-vqa" / "best.safetensors").exists()


def test_a_folder_that_is_not_the_demos_is_left_alone(venv: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    (mine / "data" / "measured.csv").write_text("1")
    done = make(venv, "demo", mine)
    assert done.returncode == 2
    assert "has files and no .demo, the mark of the demo's folder; name another" in done.stderr
    assert "names no folder" in make(venv, "demo", "").stderr
    assert (mine / "data" / "measured.csv").read_text() == "1"


@pytest.mark.parametrize("target", ["train-vqa", "train-nav", "pretrain", "demo", "demo-share"])
def test_only_a_new_or_an_empty_folder_becomes_the_demos(
    venv: Path, tmp_path: Path, target: str
) -> None:
    mine, empty = tmp_path / "mine", tmp_path / "empty"
    (mine / "corpus").mkdir(parents=True)
    (mine / "demo.png").write_text("mine")
    done = make(venv, target, mine)
    assert done.returncode == 2
    assert f"or type touch {mine}/.demo if it is an older demo's" in done.stderr
    assert {path.name for path in mine.iterdir()} == {"corpus", "demo.png"}
    empty.mkdir()
    assert make(venv, target, empty).returncode == 0
    assert (empty / ".demo").exists()


def test_an_older_demos_folder_is_taken_over_by_its_mark(venv: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    assert make(venv, "demo", demo).returncode == 0
    made = {path.name for path in demo.iterdir()}
    (demo / ".demo").unlink()
    assert make(venv, "demo", demo).returncode == 2
    (demo / ".demo").touch()
    assert make(venv, "demo", demo).returncode == 0
    assert {path.name for path in demo.iterdir()} == made
