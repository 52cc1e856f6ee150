"""A run's folder: what the run is, its metrics, its checkpoints, its results.

RUN/settings.json         settings, the store's digest and the data files' sha256
RUN/vocabulary.json       what the task read off its training data
RUN/metrics.jsonl         one line for every few updates and one for each evaluation
RUN/tensorboard/          the same as event files: tensorboard --logdir RUN/tensorboard
RUN/last.safetensors      all that going on takes
RUN/last.1.safetensors    the same, one checkpoint earlier
RUN/best.safetensors      the model at its best score
RUN/predictions.json      of the best model, in the leaderboard's format (ve: .jsonl)
RUN/result.json           scores of the best model
RUN/scores.json           its score of each example, which clipfeat compare reads
RUN/curves.png            the metrics as a picture
RUN/answer.png            the last answer of clipfeat predict, and where the model looked
RUN/examples.html         captions of clipfeat eval caption --page, and where the model looked
RUN/bad_batch.safetensors the batch whose loss was no number, where that stopped the run

A captioning run has a folder like this for each of its stages: RUN/xe and RUN/scst.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.files import sha256_file, try_lock, write_atomically
from .jsonfile import field, read_json, write_json

SETTINGS = "settings.json"
VOCABULARY = "vocabulary.json"
METRICS = "metrics.jsonl"
LAST = "last.safetensors"
BEFORE_LAST = "last.1.safetensors"
BEST = "best.safetensors"
RESULT = "result.json"
SCORES = "scores.json"
BAD_BATCH = "bad_batch.safetensors"
# Settings that a run may go on with; a run that lacked memory needs more parts to go on at all.
CHANGES_NOTHING = {"accumulate", "cache", "log_every", "checkpoint_every"}
EVENTS = "tensorboard"
CURVES = "curves.png"
LOCK = ".lock"


@dataclass(frozen=True)
class RunCard:
    """What makes a run the run it is, and where its inputs were."""

    task: str
    settings: dict[str, Any]
    store_digest: str
    features: dict[str, Any]  # what made them: the store's backbone and recipe
    data_files: dict[str, str]  # {name: sha256}
    store: str  # path
    data: str  # path


def data_digests(files: tuple[Path, ...]) -> dict[str, str]:
    """Return {name: sha256} of data files."""
    return {file.name: sha256_file(file) for file in files}


def start_run(folder: Path, card: RunCard, *, writes: bool) -> None:
    """Make the run's folder, or check that the one there is of the same run, to go on with it.

    Of several processes one `writes`, before the others look. Raises UsageError that says what
    differs.
    """
    if (folder / SETTINGS).is_file():
        differing = list(_differences(read_card(folder), card))
        if differing:
            raise UsageError(
                f"{folder} holds a run with {'; '.join(differing)}; "
                "pass another --out, or what that run was started with"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is no run folder; pass another --out")
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, dataclasses.asdict(card))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this host from training into a run's folder.

    The lock ends with its process, however that ends. Raises UsageError where another has it.
    """
    with (folder / LOCK).open("w") as file:
        if not try_lock(file.fileno()):
            raise UsageError(
                f"{folder}: another process is training this run; "
                "wait for it, or pass another --out"
            )
        yield


def read_card(folder: Path) -> RunCard:
    """Return what a run folder says of its run; UsageError if it is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UsageError(f"{folder} is no run folder: it has no {SETTINGS}")
    record = read_json(path)
    digests = field(record, "data_files", dict, path)
    if not all(isinstance(digest, str) for digest in digests.values()):
        raise ClipfeatError(f"{path}: data_files must hold a sha256, a text, for each file")
    return RunCard(
        task=field(record, "task", str, path),
        settings=field(record, "settings", dict, path),
        store_digest=field(record, "store_digest", str, path),
        features=field(record, "features", dict, path),
        data_files=digests,
        store=field(record, "store", str, path),
        data=field(record, "data", str, path),
    )


def _differences(there: RunCard, now: RunCard) -> Iterator[str]:
    for key in ("task", "store_digest"):
        yield from _difference(key, getattr(there, key), getattr(now, key))
    for key in ("settings", "data_files"):
        old, new = flat_settings(getattr(there, key)), flat_settings(getattr(now, key))
        for name in sorted((old.keys() | new.keys()) - CHANGES_NOTHING):
            yield from _difference(name, old.get(name), new.get(name))


def _difference(name: str, there: object, now: object) -> Iterator[str]:
    if there != now:
        yield f"{name} {there!r}, not {now!r}"


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"model.hidden": 512, ...}` of a table of tables, arrays as tuples."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to the run's metrics."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the run's metrics, but for a line that a crash cut short."""
    path = folder / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def rewind_metrics(folder: Path, step: int) -> None:
    """Drop the lines past `step`: a killed run wrote them after its last checkpoint."""
    path = folder / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    write_atomically(path, "".join(line for line in lines if _step_of(line) <= step).encode())


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; infinity where a crash cut it short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
