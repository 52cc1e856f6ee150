"""Train a run again, perhaps in another lab: on a store of the same digest, from the same files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ...base.files import sha256_file
from ...featstore import FeatureStore
from ..compare import ComparedRun, read_scored
from ..engine import fit
from ..run import CHANGES_NOTHING, SETTINGS, RunManifest, read_manifest
from ..settings import change_settings
from .settings import SCST, STAGES, CaptionSettings, VeSettings, VqaSettings

# Settings that are paths, which differ between machines.
PLACES = {"answer_list", "init", "model.glove", "model.bert"}


def last_stage(run: Path) -> Path:
    """Return the folder of a run's last stage; a run without stages is itself one."""
    return next((run / s for s in reversed(STAGES) if os.path.lexists(run / s / SETTINGS)), run)


def rerun(
    run: Path,
    out: Path,
    *,
    store: str | Path,
    data: Path,
    device: str | None = None,
    assignments: Sequence[str] = (),
) -> tuple[Mapping[str, Any], Any]:
    """Train the settings of `run` again into `out`, or resume that; return what `fit` returns.

    `assignments` may change paths and what changes no result. Raises UsageError before any work if
    `run` has no scores, for a store of another digest and for other annotations; and as `fit` does.
    """
    _require_assignments(assignments)
    last = require_store_of(run, store)
    settings, stages = dict(last.settings), [s for s in STAGES if (run / s / SETTINGS).is_file()]
    if stages:  # the second stage has numbers of its own in place of the first one's
        settings |= read_manifest(run / stages[0]).settings | {SCST: settings.get(SCST, {})}
    _require_files(last, data)
    given: dict[str, Any] = {"store": store, "data": data, "device": device}
    match last.task:  # each task imports packages that the others do not need
        case "vqa":
            from .vqa import VqaTask

            return fit(VqaTask(change_settings(VqaSettings, settings, assignments), **given), out)
        case "ve":
            from .entailment import EntailmentTask

            changed = change_settings(VeSettings, settings, assignments)
            return fit(EntailmentTask(changed, **given), out)
        case "caption":
            from .captioning.training import train_stages

            changed = change_settings(CaptionSettings, settings, assignments)
            return train_stages(changed, out, stages=stages, **given)
        case _:
            raise UsageError(
                f"{run} is a run of task {last.task!r}, which cannot be trained again by this "
                "command; make that task and call fit(task, out)",
                code="E-RUN-TASK",
            )


def format_rerun(compared: Sequence[ComparedRun], table: str) -> str:
    """Return a comparison with the verdict as lines for people."""
    verdict = (
        "DIFFERENT: the 95% interval of the difference excludes 0"
        if compared[1].is_sure
        else "reproduced: the 95% interval of the difference contains 0"
    )
    return f"{table}\n{verdict}"


def _require_assignments(assignments: Sequence[str]) -> None:
    allowed = CHANGES_NOTHING | PLACES
    for text in assignments:
        if text.partition("=")[0].strip() not in allowed:
            raise UsageError(
                f"--set {text}: a run is trained again with its own settings; only "
                f"{', '.join(sorted(allowed))} can be changed",
                code="E-RERUN-SETTING",
            )


def require_store_of(run: Path, store: str | Path) -> RunManifest:
    """Return the manifest of a run; raise UsageError without scores or for a store of another digest."""
    manifest, given = read_scored(last_stage(run)).manifest, FeatureStore.open(store)
    if given.digest != manifest.store_digest:
        raise UsageError(
            f"the run was trained on the store {manifest.store_digest}, and {given.location} is the "
            f"store {given.digest}; pass a store with the digest of the run",
            code="E-RERUN-DIGEST",
        )
    return manifest


def _require_files(manifest: RunManifest, data: Path) -> None:
    """Raise UsageError if a file in the folder of the data is not the one that the run read."""
    for name, sha256 in manifest.data_files.items():
        path = data / Path(name).name
        if path.is_file() and sha256_file(path) != sha256:
            raise UsageError(
                f"{path} is not the file that the run was trained on: its sha256 must be {sha256}; "
                "get the same version of the data",
                code="E-RERUN-DATA",
            )
