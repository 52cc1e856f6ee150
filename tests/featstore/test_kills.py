"""A writer killed at any instant leaves the store readable, and its work to the next writer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "kill_steps.py"
# Of a writer that makes a store, or adds to one; each is a way to change the disk.
STEPS = {
    "open", "write", "half a write", "fsync", "fsync folder", "rename", "mkdir", "unlink", "rmdir",
    "ftruncate", "pwrite",
}  # fmt: skip


@pytest.fixture
def folder(in_memory):
    return in_memory


def kill(scenario: str, folder: Path, *how: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the digests before and after the scenario, and what each kill led to."""
    command = [sys.executable, str(SCRIPT), scenario, str(folder), *map(str, how)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected, *kills = map(json.loads, done.stdout.splitlines())
    return expected, kills


def check(expected: dict[str, Any], kills: list[dict[str, Any]]) -> None:
    """Readers saw the store as it was or as it became; it became what it always becomes."""
    for found in kills:
        assert found["seen"] in (expected["old"], expected["new"]), found
        assert not found.get("unreadable"), found
        assert found["digest"] == expected["new"], found
        assert found["problems"] == found["lost"] == found["left"] == [], found


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["fresh", "append", "rewrite", "parts", "batches"])
def test_killed_before_and_after_every_kind_of_step(folder, scenario):
    expected, kills = kill(scenario, folder, "steps")
    check(expected, kills)
    assert {found["step"] for found in kills} >= STEPS
    assert len(kills) > 60
    # The commit is one step: from it on, and not before, readers see the new store.
    seen = [found["seen"] == expected["new"] for found in kills]
    assert scenario == "rewrite" or (not seen[0] and seen[-1] and seen == sorted(seen))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["rollback", "rollback-append"])
def test_killed_at_every_kind_of_step_of_a_rollback(folder, scenario):
    check(*kill(scenario, folder, "steps"))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["append", "batches", "fresh", "parts-append"])
def test_killed_at_random_times(folder, scenario):
    expected, kills = kill(scenario, folder, "random", 0, 20)
    check(expected, kills)
    assert sum(found["killed"] for found in kills) >= 5


@pytest.mark.parametrize("scenario", ["fresh", "append", "rewrite", "parts", "batches"])
def test_bytes_are_on_the_disk_before_names_and_both_before_what_vouches_for_them(folder, scenario):
    _, steps = kill(scenario, folder, "trace")
    contents, names = set(), set()  # what a loss of power may still take
    committed = False
    for kind, path, target in steps:
        where, new = Path(path), Path(target)
        if kind in ("open", "write"):
            contents.add(where)
        elif kind == "fsync":
            contents.discard(where)
        elif kind == "fsync folder":
            names = {name for name in names if name.parent != where}
        elif kind == "mkdir":
            names.add(where)
        elif kind in ("rename", "link"):
            assert where not in contents, f"{new} is named before its bytes are there"
            is_receipt = new.parent.name == "journal" and new.stem.isdigit()
            if is_receipt or new.name == "store.json":
                assert not names, f"{new} vouches for names that may go"
            names.add(new)
            committed = committed or new.name == "store.json"
        elif kind in ("unlink", "rmdir") and committed:
            assert not names, "what was is removed before what is can last"
    assert committed
