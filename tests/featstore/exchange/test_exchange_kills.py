"""An import or an export killed at any instant is continued by the same command, to the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "killed_exchange.py"


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
        assert found["outcome"] == expected["outcome"], found
        assert found["was_whole"], found


@pytest.mark.parametrize("operation", ["import", "export", "lineidx"])
def test_a_few_kills(operation, folder):
    check(operation, folder, 6)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["import", "export", "lineidx"])
def test_many_kills(operation, folder):
    check(operation, folder, 40)
