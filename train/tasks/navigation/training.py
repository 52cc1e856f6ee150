"""Train the stages of navigation, each into a folder of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator

from ....base.errors import UsageError
from ...devices import accelerator_on
from ...engine import fit
from ...models.navigation_settings import EnvDropSettings, MapSettings
from ...models.pretrained import Pretrained
from ...navigation.episodes import Episode
from ...run import SETTINGS, RunManifest, as_in_run, require_same_run
from ...stages import (
    StageTimes,
    log_unfinished,
    require_earlier_stage,
    require_folder_of_stages,
)
from ...task import Task
from .agents import load_run
from .augmented import read_augmented
from .backtranslation import BackTranslationTask
from .data import NavigationData, read_training
from .follower import FollowerTask, follower_record
from .map import MapTask
from .settings import BACK_TRANSLATION, FOLLOWER, SPEAKER, STAGES, NavigationSettings
from .speaker import SPEAKER_TASK, SpeakerTask, format_written, load_speaker, speaker_record
from .start import choose_pieces, find_start
from .task import TASK, format_scores


def train_stages(
    settings: NavigationSettings,
    out: Path,
    *,
    stages: Sequence[str],
    store: str | Path,
    data: Path,
    device: str | None = None,
) -> tuple[dict[str, Any], StageTimes]:
    """Train the named stages; return {stage: the best checkpoint's scores}, and the times.

    A run that was killed resumes from its last checkpoint, in whichever stage that is. `out` then
    holds a folder for each stage, with what `clipfeat.train.run` lists. Raises UsageError before any
    work, StoreError for a store that cannot be read, ClipfeatError for data that do not fit it.
    """
    require_folder_of_stages(out, STAGES, of="navigation")
    _require_words(settings, stages)
    settings, start = find_start(settings)
    pieces = choose_pieces(settings, start)
    if BACK_TRANSLATION in stages:
        _require_start(settings, out, stages)
    results: dict[str, Any] = {}
    times = StageTimes()
    read: NavigationData | None = None
    paths: Sequence[Episode] = ()
    for stage in stages:
        of_stage = as_in_run(settings, out / stage)
        accelerator = accelerator_on(device, of_stage)
        if read is None:
            read = read_training(
                of_stage, store=store, data=data, device=accelerator.device, pieces=pieces
            )
            _require_same_stages(settings, out, stages, read)
            if BACK_TRANSLATION in stages:
                paths = read_augmented(settings, read)  # what it refuses, before hours of training
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
        task = make_task(stage, of_stage, read, accelerator, out, start, paths)
        results[stage], times[stage] = fit(task, out / stage)
    return results, times


def make_task(
    stage: str,
    settings: NavigationSettings,
    data: NavigationData,
    accelerator: Accelerator,
    out: Path,
    start: Pretrained | None = None,
    paths: Sequence[Episode] = (),
) -> Task[Any, Any]:
    """Return the task of a stage; later ones start from the runs of others in `out`.

    `start` has the text encoder of the map agent, `paths` are for the speaker to describe.
    """
    match stage, settings.model:
        case "follower", EnvDropSettings():
            return FollowerTask(settings, data, accelerator)
        case "follower", MapSettings():
            return MapTask(settings, data, accelerator, start)
        case "speaker", _:
            return SpeakerTask(settings, data, accelerator)
        case "backtranslation", EnvDropSettings():
            follower, speaker = load_run(out / FOLLOWER), load_speaker(out / SPEAKER)
            for run in (follower, speaker):
                log_unfinished(accelerator, run.folder, run.epoch, of=stage)
            return BackTranslationTask(settings, data, accelerator, follower, speaker, paths)
        case _:
            _refuse_model(stage, settings)


def _require_words(settings: NavigationSettings, stages: Sequence[str]) -> None:
    """Raise UsageError (E-NAV-STAGE) for stages that write words, where agents read word pieces."""
    if settings.reads_pieces and (others := [stage for stage in stages if stage != FOLLOWER]):
        raise UsageError(
            f"stage {others[0]} is not for runs with {'init' if settings.init else 'pieces'}: the "
            f"speaker writes words, and the follower must read them; pass --stage {FOLLOWER}, or "
            "train without word pieces",
            code="E-NAV-STAGE",
        )


def _refuse_model(stage: str, settings: NavigationSettings) -> NoReturn:
    raise UsageError(
        f"stage {stage} is not for model {settings.model.name}; pass --stage {FOLLOWER}, or "
        "--set model=envdrop",
        code="E-NAV-STAGE",
    )


def format_stages(results: Mapping[str, Any]) -> str:
    """Return the results of stages as lines for people."""
    return "\n\n".join(
        format_written(result) if stage == SPEAKER else format_scores(result)
        for stage, result in results.items()
    )


def _require_same_stages(
    settings: NavigationSettings, out: Path, stages: Sequence[str], data: NavigationData
) -> None:
    """Raise UsageError unless the runs that back-translation starts from are these settings' runs.

    Once it has begun it belongs to them as they are, so that they cannot be extended, by themselves
    either.
    """
    has_begun = (out / BACK_TRANSLATION / SETTINGS).is_file()
    for stage, task, record in (
        (FOLLOWER, TASK, follower_record),
        (SPEAKER, SPEAKER_TASK, speaker_record),
    ):
        if has_begun if stage in stages else BACK_TRANSLATION in stages:
            manifest = RunManifest.of(
                task,
                record(as_in_run(settings, out / stage)),
                store=data.store,
                data=data.files.folder,
                files=data.files.read,
            )
            require_same_run(out / stage, manifest)


def _require_start(settings: NavigationSettings, out: Path, stages: Sequence[str]) -> None:
    """Raise UsageError unless back-translation will have models to start from."""
    if not isinstance(settings.model, EnvDropSettings):
        _refuse_model(BACK_TRANSLATION, settings)
    for stage in (FOLLOWER, SPEAKER):
        if stage not in stages:
            require_earlier_stage(out, stage, of=BACK_TRANSLATION, remedy=",".join(STAGES))
