"""Two labs share a store: the commands of `make demo-share`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_lines import run_here
from refused import refuses
from stores import make_store

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.demo.share import RECOMPUTED, STORE, play, run_command
from clipfeat.featstore import FeatureStore

Done = subprocess.CompletedProcess[str]


class Machine:
    """Runs the commands here; those that need torch are replaced, and so is a failing one."""

    def __init__(self, fails: str = ""):
        self.typed: list[tuple[str, str]] = []  # lab, command line
        self._fails = fails

    def run(self, words: Sequence[str], folder: Path) -> Done:
        self.typed.append((folder.name, " ".join(words)))
        if self._fails and self._fails in words:
            return Done(words, 1, "something is wrong\n")
        if words[1] == "extract":
            images = sorted((folder / "../data/images").iterdir())
            grid = np.ones((2, 2, 8), np.float16)
            make_store(folder / STORE, {image.stem: grid for image in images})
            return Done(words, 0, f"{STORE}: 10 records, digest 0123...\n")
        if words[1] == "train" or "--recompute" in words:
            return Done(words, 0, "verdict: same\n 50.00  overall\n")
        if words[0] != "clipfeat":
            return run_command(words, folder)
        done = run_here(*words[1:], cwd=folder)
        return Done(words, done.returncode, done.stderr + done.stdout)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_lab_b_gets_the_store_of_lab_a(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine()
    play(tmp_path, images=10, run=machine.run)
    theirs, ours = (FeatureStore.open(tmp_path / lab / STORE) for lab in ("lab-a", "lab-b"))
    assert ours.digest == theirs.digest
    assert ours.metadata.about.licence == "CC-BY-4.0"
    shown, _, screen = capsys.readouterr().out.partition("---- what each lab saw ----")
    assert all(
        f"{lab.replace('-', ' ')} $ {line.split()[0]}" in shown for lab, line in machine.typed
    )
    rows = {line[:15].strip(): line[15:] for line in screen.splitlines() if line[:1].strip()}
    assert rows["B pulled"].endswith(f"10 records, digest {ours.digest[:16]}...")
    assert "signed with the ssh key SHA256:" in rows["B verified"]
    assert rows["B recomputed"] == "verdict: same"
    assert rows["B trained"].startswith("50.00  overall")
    assert rows["B cites"].endswith(f"sha256:{ours.digest})")
    assert len(screen.splitlines()) < 24


def test_what_lab_b_runs(tmp_path: Path) -> None:
    machine = Machine()
    play(tmp_path, images=10, run=machine.run)
    checks = [line for lab, line in machine.typed if lab == "lab-b" and "verify" in line]
    assert checks == [
        f"clipfeat store verify {STORE} --signed-by ../lab-a/key.pub",
        f"clipfeat store verify {STORE} --recompute {RECOMPUTED} --images ../data/images",
    ]
    (training,) = (line for _, line in machine.typed if " train " in line)
    assert "--store http://127.0.0.1:" in training


def test_a_command_that_fails_ends_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(fails="sign")
    with refuses("E-DEMO-SHARE", "clipfeat store sign", kind=ClipfeatError):
        play(tmp_path, images=10, run=machine.run)
    assert "something is wrong" in capsys.readouterr().out
    assert {lab for lab, _ in machine.typed} == {"lab-a"}


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with refuses("E-DEMO-FOLDER", kind=UsageError):
        play(tmp_path, run=Machine().run)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_both_labs_with_an_extraction_and_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tmp_path, images=20)
    _, _, screen = capsys.readouterr().out.partition("---- what each lab saw ----")
    assert FeatureStore.open(tmp_path / "lab-b" / STORE).digest in screen
    assert (tmp_path / "lab-b" / "run" / "result.json").exists()
