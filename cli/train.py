"""clipfeat train: train a task on a feature store."""

import functools
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ..base.errors import UsageError, needs_extra
from ..base.files import require_folder
from ..base.machine import require_gpus, visible_devices
from ..base.text import tell
from .options import LocalPath, show, training

if TYPE_CHECKING:
    from ..train.settings import LoopSettings
    from ..train.task import Task

Trained = tuple[Mapping[str, Any], Any]  # a result and where the time went
logger = logging.getLogger(__name__)

S = TypeVar("S")
PRESETS = Path(__file__).parent.parent / "train" / "presets"


class TaskCommand(click.Command):
    """A command that trains a task; its help lists the presets of the task."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        paths = sorted((PRESETS / str(self.name)).glob("*.toml"))
        with formatter.section("Presets, for CONFIG"):
            formatter.write_dl([(path.stem, _first_comment(path)) for path in paths])
        formatter.write_paragraph()
        formatter.write_text(
            f"clipfeat train {self.name} CONFIG --settings prints every setting of a preset with its "
            "meaning."
        )


def _first_comment(path: Path) -> str:
    """Return the first line of a preset, which says what it is."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


@click.group()
def train() -> None:
    """Train a task on the features of a store.

    \b
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out run
    $ clipfeat train ve --store flickr30k.clipfeat --data snli_ve/ --out run
    $ clipfeat train caption --store coco.clipfeat --data captions/ --out run
    $ clipfeat train pretrain --store coco.clipfeat --data corpus/ --out stage1
    $ clipfeat train nav --store views.clipfeat --data R2R/ --out run
    """


@train.command(cls=TaskCommand)
@training("Folder of the JSON files of VQA v2, GQA or a data set like them (docs/vqa.md).")
def vqa(**options: Any) -> None:
    """Train visual question answering on VQA v2, GQA or a data set like them.

    CONFIG is a TOML file of settings, or the name of a preset.

    \b
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out run
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out blind --set blind=true
    """
    from ..train.tasks.settings import VQA_PRESETS, VqaSettings

    settings = _settings(VqaSettings, VQA_PRESETS, options)
    with needs_extra("train"):
        from ..train.tasks.vqa import VqaTask, format_result
    _train(_fit(VqaTask, settings), format_result, options)


@train.command(cls=TaskCommand)
@training("Folder of SNLI-VE's JSON lines or of e-SNLI-VE's CSV files (docs/ve.md).")
def ve(**options: Any) -> None:
    """Train visual entailment on SNLI-VE or e-SNLI-VE.

    CONFIG is a TOML file of settings, or the name of a preset.

    \b
    $ clipfeat train ve --store flickr30k.clipfeat --data snli_ve/ --out run
    $ clipfeat train ve --store flickr30k.clipfeat --data snli_ve/ --out blind --set blind=true
    $ clipfeat train ve --store all.clipfeat --data snli_ve/ --out run --init vqa-run
    """
    from ..train.tasks.settings import VE_PRESETS, VeSettings

    settings = _settings(VeSettings, VE_PRESETS, options)
    with needs_extra("train"):
        from ..train.tasks.entailment import EntailmentTask, format_result
    _train(_fit(EntailmentTask, settings), format_result, options)


@train.command(cls=TaskCommand)
@training("Folder of the corpus, from clipfeat corpus, or of tables of captions.")
def pretrain(**options: Any) -> None:
    """Pre-train an encoder of words and grid cells.

    vqa and ve can start from it (--init). CONFIG is a TOML file of settings, or the name of a
    preset: stage1 by default, then stage2.

    \b
    $ clipfeat train pretrain --store coco.clipfeat --data corpus/ --out stage1
    $ clipfeat train pretrain stage2 --store coco.clipfeat --data corpus/ --out stage2 --init stage1
    $ clipfeat train vqa finetune --store coco.clipfeat --data vqa/ --out run --init stage2
    """
    from ..train.tasks.settings import PRETRAIN_PRESETS, PretrainSettings

    options["config"] = options["config"] or "stage1"
    settings = _settings(PretrainSettings, PRETRAIN_PRESETS, options)
    with needs_extra("train"):
        from ..train.tasks.pretraining.task import PretrainingTask, format_result
    _train(_fit(PretrainingTask, settings), format_result, options)


@train.command(cls=TaskCommand)
@training("Folder of Karpathy's or COCO's JSON files (docs/captioning.md).")
@click.option(
    "--stage",
    type=click.Choice(["xe", "scst", "xe,scst"]),
    default="xe,scst",
    show_default=True,
    help="Cross-entropy training, self-critical training from its best model, or both.",
)
def caption(*, stage: str, **options: Any) -> None:
    """Train captioning on COCO or Flickr30k.

    Reads the files of Karpathy's splits, or COCO's own. CONFIG is a TOML file of settings, or the
    name of a preset. Each stage has a folder in --out.

    \b
    $ clipfeat train caption transformer --store coco.clipfeat --data captions/ --out run
    $ clipfeat train caption --store coco.clipfeat --data captions/ --out blind \\
          --stage xe --set blind=true
    """
    from ..train.tasks.settings import CAPTION_PRESETS, CaptionSettings

    settings = _settings(CaptionSettings, CAPTION_PRESETS, options)
    with needs_extra("train"):
        from ..train.tasks.captioning.training import format_stages, train_stages
    train_both = functools.partial(train_stages, settings, stages=stage.split(","))
    _train(train_both, format_stages, options)


@train.command(cls=TaskCommand)
@training("Folder of R2R's or RxR's files (docs/navigation.md).")
@click.option(
    "--graphs",
    type=LocalPath(file_okay=False),
    metavar="DIR",
    help="Folder of the connectivity files.  [default: connectivity, in --data]",
)
@click.option(
    "--stage",
    default="follower",
    show_default=True,
    metavar="NAME[,NAME]",
    help="What to train: follower, speaker and backtranslation, one or several of them in this order.",
)
def nav(*, stage: str, **options: Any) -> None:
    """Train an agent that follows instructions through scanned houses, R2R's or RxR's.

    CONFIG is a TOML file of settings, or the name of a preset. Each stage has a folder in --out.

    \b
    $ clipfeat train nav --store views.clipfeat --data R2R/ --graphs connectivity/ --out run
    $ clipfeat train nav rxr --store views.clipfeat --data RxR/ --graphs connectivity/ \\
          --out english --set languages=en
    $ clipfeat train nav --store views.clipfeat --data R2R/ --graphs connectivity/ --out run \\
          --stage speaker,backtranslation
    """
    from ..train.tasks.navigation.settings import NAV_PRESETS, NavigationSettings, read_stages

    stages = read_stages(stage)
    settings = _settings(NavigationSettings, NAV_PRESETS, options)
    with needs_extra("train"):
        from ..train.tasks.navigation.training import format_stages, train_stages
    _train(functools.partial(train_stages, settings, stages=stages), format_stages, options)


def _settings(kind: type[S], presets: Path, options: Mapping[str, Any]) -> S:
    """Return the settings of a command line; with --settings, print them and exit."""
    from ..train.preset_text import settings_text
    from ..train.settings import find_config, load_settings

    config, assignments = options["config"], options["assignments"]
    if options["skip_missing"] is not None:
        assignments = (*assignments, f"skip_missing={options['skip_missing']}")
    if options.get("init") is not None:
        assignments = (*assignments, f"init={json.dumps(str(options['init']))}")
    if options.get("graphs") is not None:
        folder = str(options["graphs"].absolute())
        assignments = (*assignments, f"graphs={json.dumps(folder)}")
    path = None if config is None else find_config(config, presets)
    settings = load_settings(kind, config=path, assignments=assignments)
    if options["list_settings"]:
        tell(settings_text(settings, path, presets).rstrip("\n"))
        raise click.exceptions.Exit
    return settings


def _fit(
    task_type: Callable[..., "Task[Any, Any]"], settings: "LoopSettings"
) -> "Callable[..., Trained]":
    """Return what makes a task of the settings and fits it, given the folders."""

    def fit_task(out: Path, **given: Any) -> "Trained":
        from ..train.engine import fit
        from ..train.run import as_in_run

        return fit(task_type(as_in_run(settings, out), **given), out)

    return fit_task


def _train(
    train_here: "Callable[..., Trained]",
    format_result: Callable[[Mapping[str, Any]], str],
    options: Mapping[str, Any],
) -> None:
    """Train, here or in a process for each GPU, and print the result."""
    result = run_training(train_here, options)
    if result is not None:
        show(result, format_result(result), as_json=options["as_json"])


def run_training(
    train_here: "Callable[..., Trained]", options: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Train, here or in a process for each GPU; return the result, None in all but the first."""
    from ..train.devices import leave_group
    from ..train.launch import in_group, is_first

    require_folder(options["out"], "--out")
    store = _pulled(options["store"], options["pull_first"])
    if options["gpus"] is not None and not in_group():
        _train_on(options["gpus"], options["device"])
    given = {name: options[name] for name in ("data", "device")}
    result, times = train_here(options["out"], store=store, **given)
    leave_group()
    if not is_first():
        return None
    if options["profile"]:
        logger.info(times.table())
    return result


def _pulled(store: str | Path, folder: Path | None) -> str | Path:
    """Return the store to train on: its copy in `folder`, which is completed first, if one is given.

    In a group of processes it is complete already, since this command made it before it started them.
    """
    from ..train.launch import in_group

    if folder is None:
        return store
    if isinstance(store, Path):
        raise UsageError(
            f"--pull-first copies a store from its URL, and {store} is on this machine; drop it",
            code="E-OPTION-EXCLUDES",
        )
    if not in_group():
        from ..featstore.sharing.pull import pull

        pull(store, folder)
    return folder


def _train_on(gpus: str, device: str | None) -> NoReturn:
    """Run this command in a process for each GPU, and exit as they do."""
    import torch

    from ..train.launch import launch

    if device == "cpu":
        raise UsageError(
            "--gpus and --device cpu exclude each other; drop one of them", code="E-OPTION-EXCLUDES"
        )
    chosen = require_gpus(gpus, torch.cuda.device_count())
    command = [sys.executable, "-m", "clipfeat.cli", *sys.argv[1:]]
    sys.exit(launch(command, len(chosen), CUDA_VISIBLE_DEVICES=visible_devices(chosen)))
