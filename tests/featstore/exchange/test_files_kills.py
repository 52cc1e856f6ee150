"""An export to files, killed at any instant, is continued by the same command to the same content."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "killed_files.py"
FORMATS = ["mmf-npy", "mmf-lmdb", "webdataset", "m2-hdf5", "captioning-npz"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_kills(name, in_memory):
    command = [sys.executable, str(SCRIPT), name, str(in_memory), "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    expected, *kills = map(json.loads, done.stdout.splitlines())
    assert len(kills) == 25
    for found in kills:
        assert found["outcome"] == expected["outcome"], found["step"]


def test_a_few_kills(in_memory):
    command = [sys.executable, str(SCRIPT), "mmf-npy", str(in_memory), "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines()]
    assert outcomes == outcomes[:1] * 6
