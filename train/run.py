"""A run's folder: what the run is, its metrics, its checkpoints, its results.

RUN/settings.json         settings, the store's digest and the data files' sha256
RUN/vocabulary.json       words and answers of the training data
RUN/metrics.jsonl         one line for every few updates and one for each evaluation
RUN/tensorboard/          the same as event files: tensorboard --logdir RUN/tensorboard
RUN/last.safetensors      all that resuming needs
RUN/last.1.safetensors    the same, one checkpoint earlier
RUN/best.safetensors      the model at its best score
RUN/predictions.json      of the best model, in the leaderboard's format (ve: .jsonl)
RUN/result.json           scores of the best model
RUN/scores.json           its score of each example, which clipfeat compare reads
RUN/curves.png            the metrics as a picture
RUN/answer.png            the last answer of clipfeat predict, and where the model looked
RUN/examples.html         captions of clipfeat eval caption --page, and where the model looked
RUN/bad_batch.safetensors the batch whose loss was not finite, if that stopped the run

A run of captioning or navigation has a folder like this for each of its stages, as RUN/xe and RUN/scst.
"""

import contextlib
import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from ..base.errors import ClipfeatError, UsageError
from ..base.files import (
    atomic_file,
    byte_lines,
    is_temporary,
    naming,
    open_output,
    remove_temporaries,
    sha256_file,
    try_lock,
)
from ..base.jsonio import MAX_RUN_BYTES, field, parse_json, read_json, write_json
from ..base.text import printable
from ..featstore import FeatureStore
from ..featstore.identity import IMPORTED
from ..featstore.metadata import different_values
from .schedule import first_other_rate, kept_shares, learning_rate, total_updates
from .settings import DECIDED_AT_START, LoopSettings, flat_settings, settings_of

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=LoopSettings)

SETTINGS = "settings.json"
VOCABULARY = "vocabulary.json"
METRICS = "metrics.jsonl"
LAST = "last.safetensors"
BEFORE_LAST = "last.1.safetensors"
BEST = "best.safetensors"
RESULT = "result.json"
SCORES = "scores.json"
BAD_BATCH = "bad_batch.safetensors"
# Settings that may change when a run resumes: one that lacked memory needs smaller parts. Of the
# graphs, a folder, the files' sha256 count.
CHANGES_NOTHING = {
    "gradient_accumulation_steps",
    "cache",
    "log_every",
    "checkpoint_every",
    "graphs",
}
# Settings that may change when a run is extended, as long as the rates of its updates do not.
LENGTH = {
    *("epochs", "updates", "warmup", "milestones"),
    *("scst.epochs", "scst.updates", "speaker.updates", "back_translation.updates"),
}
EVENTS = "tensorboard"
CURVES = "curves.png"
LOCK = ".lock"
DEEPEST = 10  # tables in tables of settings; ours have three
OF_SOURCE = ("source_sha256", "listing_sha256", "files")  # what an import names its files by
MOST_NAMED = 3  # values that differ, in a message


@dataclass(frozen=True)
class RunManifest:
    """What identifies a run, and the paths of its inputs."""

    task: str
    settings: dict[str, Any]
    store_digest: str
    features: dict[str, Any]  # what `features_of` returns of the store
    data_files: dict[str, str]  # {name: sha256}
    store: str  # path or URL
    data: str  # path

    @property
    def regions(self) -> bool:
        """Whether the run was trained on regions, and not on grids."""
        return bool(self.features.get("regions"))

    @classmethod
    def of(
        cls,
        task: str,
        settings: dict[str, Any],
        *,
        store: FeatureStore,
        data: Path,
        files: Sequence[Path],
    ) -> "RunManifest":
        """Return the manifest of a run; with other contents of `files` it would be another run."""
        paths = dict.fromkeys(files)
        times = Counter(path.name for path in paths)
        names = [
            path.name if times[path.name] == 1 else f"{path.parent.name}/{path.name}"
            for path in paths  # a stage may start from the best models of two others
        ]
        return cls(
            task=task,
            settings=settings,
            store_digest=store.digest,
            features=features_of(store),
            data_files={n: sha256_file(path) for n, path in zip(names, paths, strict=True)},
            store=store.location,
            data=str(data.resolve()),
        )


def features_of(store: FeatureStore) -> dict[str, object]:
    """Return what made the grids of a store; vectors beside them do not count.

    Nor do the files from which features were imported: those of a test split are others. Of a store
    of regions it says so.
    """
    identity = store.identity.to_json()
    recipe = {key: value for key, value in identity["recipe"].items() if key != "vector"}
    backbone = identity["backbone"]
    if backbone.get("model") == IMPORTED:
        backbone = {key: value for key, value in backbone.items() if key not in OF_SOURCE}
    features = {"backbone": backbone, "recipe": recipe, "dim": identity["dim"]}
    return {**features, "regions": True} if identity["regions"] else features


def require_features(store: FeatureStore, manifest: RunManifest) -> None:
    """Raise UsageError unless a store has the backbone, recipe and dim that a run was trained on.

    Its images may be others, such as those of a test split.
    """
    if differing := describe_differences(manifest.features, features_of(store)):
        raise UsageError(
            f"the run was trained on features unlike those of {store.location}: {differing}; "
            f"extract these images as those of {manifest.store} were",
            code="E-RUN-FEATURES",
        )


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in which values two nested JSON objects differ, the first few; "" where in none."""
    phrases = [
        f"{name} was {old!r:.60} and is {new!r:.60}"
        for name, old, new in different_values(before, now)
    ]
    more = [f"{len(phrases) - MOST_NAMED} more"] if len(phrases) > MOST_NAMED else []
    return ", ".join(phrases[:MOST_NAMED] + more)


def require_same_run(folder: Path, manifest: RunManifest, *, examples: int | None = None) -> None:
    """Raise UsageError, which says what differs, for a folder that holds anything but this run.

    With `examples`, the number of examples of an epoch, the run may be shorter than the one that is
    asked for, if the updates that it has would have had the same rates; else E-RUN-LENGTH is raised.
    A new folder may hold the lock and temporary files of a process that was killed at its start.
    """
    if (folder / SETTINGS).is_file():
        started = read_manifest(folder)
        differing = _differences(started, manifest)
        if examples is not None and differing and differing.keys() <= LENGTH:
            old, new = (_loop_settings(each) for each in (started, manifest))
            if total_updates(new, examples) > total_updates(old, examples):
                _require_extension(folder, old, new, examples)
                return
        if differing:
            raise UsageError(
                f"{folder} holds a run with {'; '.join(differing.values())}; "
                "pass another --out, or the settings and data of that run",
                code="E-RUN-DIFFERS",
            )
    elif folder.exists() and not (folder.is_dir() and all(map(_is_trace, folder.iterdir()))):
        raise UsageError(
            f"{folder} exists and is not a run folder; pass another --out", code="E-RUN-FOLDER"
        )


def _loop_settings(manifest: RunManifest) -> LoopSettings:
    """Return the settings that decide the length and the rates of a run."""
    names = {each.name for each in dataclasses.fields(LoopSettings)} & manifest.settings.keys()
    return settings_of(LoopSettings, {name: manifest.settings[name] for name in names})


def _require_extension(folder: Path, old: LoopSettings, new: LoopSettings, examples: int) -> None:
    """Raise UsageError unless a longer run gives the updates of a shorter one the same rates."""
    fewer, more = total_updates(old, examples), total_updates(new, examples)
    step = first_other_rate(old, new, examples)
    if step is not None:
        shares = kept_shares(old, fewer / more)
        remedy = f"pass {shares} to keep it, or" if shares else "the schedule ends with the run, so"
        raise UsageError(
            f"{folder} holds a run of {fewer:,} updates, and with {more:,} the rate of update "
            f"{step + 1:,} would be {learning_rate(step, more, new):.6g}, not "
            f"{learning_rate(step, fewer, old):.6g}; {remedy} start a new run from its best model: "
            f"--init {folder} and another --out",
            code="E-RUN-LENGTH",
        )
    logger.info(
        f"{folder}: extended from {fewer:,} to {more:,} updates; the rate of the next one is "
        f"{learning_rate(fewer, more, new):.6g}, by schedule {new.schedule}"
    )


def _is_trace(path: Path) -> bool:
    return path.name == LOCK or is_temporary(path.name)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this host from training into a run's folder, which is created.

    Temporary files of killed processes are removed. The lock ends with its process. Raises
    UsageError if another process has it, and OSError if the lock is a link, a folder or a device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_output(folder / LOCK), "r+b") as file:
        if not try_lock(file.fileno()):
            raise UsageError(
                f"{folder}: another process is training this run; "
                "wait for it, or pass another --out",
                code="E-RUN-LOCKED",
            )
        remove_temporaries(folder)
        yield


def as_in_run(settings: S, folder: Path) -> S:
    """Return settings in which all that they leave to a run is as the run in `folder` has it.

    Without a run in the folder, they stay as they are.
    """
    left = [
        name for name, value in DECIDED_AT_START.items() if getattr(settings, name, None) == value
    ]
    path = folder / SETTINGS
    if not left or not os.path.lexists(path):
        return settings
    decided = read_manifest(folder).settings
    return dataclasses.replace(
        settings,
        **{name: field(decided, name, type(DECIDED_AT_START[name]), path) for name in left},
    )


def require_no_link(folder: Path) -> None:
    """Raise UsageError if a folder inside a run's is a link: files would be written elsewhere.

    The run's own folder may be one, since the user has named it.
    """
    if folder.is_symlink():
        raise UsageError(
            f"{folder} is a symbolic link, and a run writes into its own folder only; "
            "replace it by the folder itself, or pass another --out",
            code="E-RUN-LINK",
        )


def find_best(folder: Path) -> Path:
    """Return the checkpoint of a run's best model; UsageError where it does not exist yet."""
    if not os.path.lexists(folder / BEST):
        raise UsageError(
            f"{folder} has no {BEST}: it has not been evaluated yet, or the file was deleted",
            code="E-RUN-BEST",
        )
    return folder / BEST


def write_manifest(folder: Path, manifest: RunManifest) -> None:
    """Write the manifest of a run into its folder."""
    write_json(folder / SETTINGS, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> RunManifest:
    """Return the manifest of a run folder; raises UsageError for another folder."""
    path = folder / SETTINGS
    if not os.path.lexists(path):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{SETTINGS}"))[:3]
        hint = f"; runs in it are {', '.join(inside)}" if inside else ""
        raise UsageError(
            f"{folder} is not a run folder: it has no {SETTINGS}{printable(hint)}",
            code="E-RUN-FOLDER",
        )
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    if _is_deeper(record, DEEPEST):
        raise ClipfeatError(
            f"{path}: tables are nested more than {DEEPEST} deep", code="E-RUN-NESTED"
        )
    digests = field(record, "data_files", dict, path)
    if not all(isinstance(digest, str) for digest in digests.values()):
        raise ClipfeatError(
            f"{path}: data_files must have a sha256, as text, for each file", code="E-RUN-DIGESTS"
        )
    return RunManifest(
        task=field(record, "task", str, path),
        settings=field(record, "settings", dict, path),
        store_digest=field(record, "store_digest", str, path),
        features=field(record, "features", dict, path),
        data_files=digests,
        store=field(record, "store", str, path),
        data=field(record, "data", str, path),
    )


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _differences(started: RunManifest, given: RunManifest) -> dict[str, str]:
    """Return {name: what differs} of the run in a folder and the run that is asked for."""
    pairs = [(key, getattr(started, key), getattr(given, key)) for key in ("task", "store_digest")]
    for key in ("settings", "data_files"):
        old, new = flat_settings(getattr(started, key)), flat_settings(getattr(given, key))
        names = sorted((old.keys() | new.keys()) - CHANGES_NOTHING)
        pairs += [(name, old.get(name), new.get(name)) for name in names]
    return {name: f"{name} {old!r}, not {new!r}" for name, old, new in pairs if old != new}


@contextlib.contextmanager
def open_metrics(folder: Path, *, step: int) -> Iterator[IO[str]]:
    """Open the run's metrics, to append lines to those up to `step`.

    Later lines, which a killed run wrote after its last checkpoint, are dropped.
    """
    path = folder / METRICS
    with atomic_file(path) as kept:
        kept.writelines(line for line, record in _metrics(folder) if record["step"] <= step)
    file = os.fdopen(open_output(path, append=True), "a", encoding="ascii")
    try:
        yield file
    finally:
        with naming(path):  # closing writes what is buffered, and the disk may be full
            file.close()


def append_metrics(file: IO[str], record: Mapping[str, Any]) -> None:
    """Add one line to the run's metrics."""
    file.write(json.dumps(record) + "\n")
    file.flush()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the run's metrics, without lines that a crash truncated or damaged."""
    return [record for _, record in _metrics(folder)]


def _metrics(folder: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each line of the run's metrics that has a step, as bytes and parsed; skip other lines.

    Raises OSError if the metrics are a link, a folder or a device, and for a line that is too long.
    """
    path = folder / METRICS
    for line in byte_lines(path) if path.exists() or path.is_symlink() else ():
        with contextlib.suppress(ValueError):
            record = parse_json(line) if line.endswith(b"\n") else None  # truncated by a crash
            if isinstance(record, dict) and type(record.get("step")) is int:
                yield line, record
