"""Event files as TensorBoard itself reads them."""

import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipfeat.train.log import EventWriter


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return {name: [(step, value), ...]}."""
    events = EventAccumulator(str(folder)).Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, round(e.value, 4)) for e in events.Scalars(name)] for name in names}


def test_numbers_become_scalars_at_their_step(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "run" / "tensorboard", purge_step=0)
    writer.write({"step": 10, "epoch": 1, "loss": 2.5, "lr": 1e-3})
    by_type = {"yes/no": 71, "what colour": 40.5}
    writer.write(
        {"step": 12, "epoch": 1, "score": 60.25, "by_type": by_type, "note": "a", "x": None}
    )
    writer.write({"step": 20, "epoch": 2, "loss": 2.0, "lr": 5e-4, "warm": True})
    expected = {
        "loss": [(10, 2.5), (20, 2.0)],
        "lr": [(10, 0.001), (20, 0.0005)],
        "score": [(12, 60.25)],
        "by_type/yes/no": [(12, 71.0)],
        "by_type/what_colour": [(12, 40.5)],
    }
    assert read(tmp_path / "run" / "tensorboard") == expected  # on disk before it is closed
    writer.close()
    assert read(tmp_path / "run" / "tensorboard") == expected


def test_going_on_hides_what_the_killed_process_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    killed = EventWriter(tmp_path, purge_step=0)
    for step in range(1, 8):
        killed.write({"step": step, "loss": 10.0 + step})
    again = EventWriter(tmp_path, purge_step=5)  # the checkpoint is of step 4
    for step in range(5, 7):
        again.write({"step": step, "loss": float(step)})
    again.close()
    killed.close()
    assert read(tmp_path) == {"loss": [(1, 11), (2, 12), (3, 13), (4, 14), (5, 5), (6, 6)]}


def test_importing_says_nothing() -> None:
    words = [sys.executable, "-W", "error", "-c", "import clipfeat.train.log"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
