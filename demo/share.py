"""Two labs on one machine: one extracts, signs and serves a store, the other checks it and trains on it.

    python -m clipfeat.demo.share FOLDER

Every command is printed as it is run, with what it prints. The model has random weights, so that
nothing is downloaded: the accuracy means nothing.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ClipfeatError, UsageError
from ..base.text import tell

STORE = "scenes.clipfeat"
IMAGES = 100  # scenes
RECOMPUTED = 5  # of them, by lab B
TRAINING = ("epochs=3", "min_answer_count=2")

Run = Callable[[Sequence[str], Path], "subprocess.CompletedProcess[str]"]


def run_command(words: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command line in a folder to its end; its stdout has all that it prints.

    What it fetches is cached in the folder, and not in the user's cache.
    """
    return subprocess.run(
        _program(words),
        cwd=folder,
        env=os.environ | {"CLIPFEAT_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _program(words: Sequence[str]) -> list[str]:
    """Return what starts a command line, with this Python for clipfeat."""
    own = [sys.executable, "-m", "clipfeat.cli"]
    return [*own, *words[1:]] if words[0] == "clipfeat" else list(words)


@dataclass(frozen=True)
class Lab:
    """A lab with a folder of its own."""

    name: str
    folder: Path
    run: Run

    def shell(self, line: str) -> list[str]:
        """Run a command line; print it and what it prints, and return these lines.

        Raises ClipfeatError if it fails.
        """
        tell(f"\n{self.name} $ {line}")
        done = self.run(shlex.split(line), self.folder)
        lines = done.stdout.splitlines()
        for text in lines:
            tell(f"    {text}")
        if done.returncode:
            raise ClipfeatError(
                f"{line}: exit code {done.returncode}; what it prints is above", code="E-DEMO-SHARE"
            )
        return lines

    @contextmanager
    def serving(self, store: str) -> Iterator[str]:
        """Serve a store while the block runs; yield its URL."""
        line = f"clipfeat store serve {store} --port 0"
        tell(f"\n{self.name} $ {line} &")
        server = subprocess.Popen(
            _program(shlex.split(line)), cwd=self.folder, stdout=subprocess.PIPE, text=True
        )
        try:
            first = server.stdout.readline() if server.stdout else ""
            if not first:
                raise ClipfeatError(f"{line}: it does not serve", code="E-DEMO-SHARE")
            tell(f"    {first.strip()}")
            yield first.split()[0]
        finally:
            server.terminate()
            server.communicate()


def play(folder: Path, images: int = IMAGES, run: Run = run_command) -> None:
    """Play both labs in `folder`, which gets `data`, `lab-a` and `lab-b`.

    `run` runs a command line in a folder. Raises UsageError for a folder that is not empty, and if
    ssh-keygen is not installed; ClipfeatError if a command fails.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} exists and is not empty; delete it or choose another folder",
            code="E-DEMO-FOLDER",
        )
    if shutil.which("ssh-keygen") is None:
        raise UsageError(
            "lab A signs with the program ssh-keygen, which is not installed; install OpenSSH",
            code="E-SIGN-PROGRAM",
        )
    started = time.monotonic()
    a, b = (Lab(f"lab {name}", folder / f"lab-{name}", run) for name in "ab")
    for lab in (a, b):
        lab.folder.mkdir(parents=True)

    a.shell(f"clipfeat demo-data ../data --images {images}")
    extracted = a.shell(
        "clipfeat extract --images ../data/images --model RN50 --pretrained none "
        f"--recipe square:64 --shard-size 16 --out {STORE}"
    )
    a.shell(
        f'clipfeat store describe {STORE} --title "Scenes, RN50 at 64 pixels" '
        "--licence CC-BY-4.0 --source-licence CC0-1.0"
    )
    a.shell(f"clipfeat store verify {STORE}")
    a.shell("ssh-keygen -q -t ed25519 -N '' -C lab-a -f key")
    a.shell(f"clipfeat store sign {STORE} --key key")
    with a.serving(STORE) as url:
        # key.pub is on lab A's web page; images and questions are public.
        described = b.shell(f"clipfeat store info {url}")
        pulled = b.shell(f"clipfeat store pull {url} {STORE}")
        signed = b.shell(f"clipfeat store verify {STORE} --signed-by ../lab-a/key.pub")
        recomputed = b.shell(
            f"clipfeat store verify {STORE} --recompute {RECOMPUTED} --images ../data/images"
        )
        settings = " ".join(f"--set {setting}" for setting in TRAINING)
        trained = b.shell(
            f"clipfeat train vqa --store {url} --data ../data/vqa --out run {settings}"
        )
    b.shell(f"clipfeat store digest {STORE}")
    tell(
        "\n".join(
            [
                "\n---- what each lab saw ----",
                f"A extracted    {_line(extracted, 'digest')}",
                f"B pulled       {_line(pulled, 'digest')}",
                f"B verified     {_line(signed, 'signed with')}",
                f"               {_line(signed, 'every file')}",
                f"B recomputed   {_line(recomputed, 'verdict')}",
                f"B trained      {_line(trained, 'overall')} accuracy (the weights are random)",
                f"B cites        {_line(described, 'cite as').removeprefix('cite as').strip()}",
                f"all of it took {time.monotonic() - started:.0f} s",
            ]
        )
    )


def _line(lines: Sequence[str], word: str) -> str:
    """Return the first line that has a word."""
    return next((line.strip() for line in lines if word in line), "")


def main() -> None:
    parser = argparse.ArgumentParser(description="Play two labs that share a store.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        play(folder.resolve())
    except ClipfeatError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
