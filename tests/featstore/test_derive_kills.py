"""A derivation killed at any instant is continued by the same command, to the same digest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "killed_derivation.py"


@pytest.fixture
def folder(in_memory):
    return in_memory


def check(operation: str, folder: Path, times: int) -> None:
    command = [sys.executable, str(SCRIPT), operation, str(folder), str(times)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected, *kills = map(json.loads, done.stdout.splitlines())
    assert len(kills) == times
    for found in kills:
        assert found["seen"] in (None, expected["digest"]), found
        assert found["digest"] == expected["digest"], found
        assert found["problems"] == [], found
        assert found["loss"] == (operation == "convert"), found
    assert kills[0]["seen"] is None


@pytest.mark.parametrize("operation", ["subset", "receive", "convert"])
def test_a_few_kills(operation, folder):
    check(operation, folder, 6)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["reshard", "convert", "pool"])
def test_many_kills(operation, folder):
    check(operation, folder, 40)
