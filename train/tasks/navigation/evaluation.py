"""Score a trained agent's walks on a split, or write them for upload."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....base.files import require_file
from ...checkpoint import EvalRequest, require_blind
from ...devices import accelerator_of_trained, inference_errors
from ...navigation.page import write_page
from ...navigation.results import require_references, write_submission
from ...normalize import feature_norm
from ...run import require_features
from .agents import TrainedAgent, load_run, walk_of
from .data import GRAPHS, encode, make_environment, read_files
from .task import format_split, predictions_path, report_split, walk_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class NavigationRequest(EvalRequest):
    """What a run's best agent is scored on, how it walks, and what is written."""

    graphs: Path | None = None  # folder of the connectivity files; None: that of the run
    forbid_visited: bool = False  # as in `rollout.follow`
    submission: Path | None = None  # where to write the walks for upload
    page: Path | None = None  # where to write a page of episodes
    images: Path | None = None  # folder of the views, which are then shown on the page


def eval_run(run: Path, request: NavigationRequest, *, blind: Path | None = None) -> dict[str, Any]:
    """Walk a split with a run's best agent, write the walks into the run, and score them.

    With `blind`, a run with `blind=true`, its scores on the split are under "blind_twin". A split
    whose goals are hidden is not scored. Raises UsageError for a store with other features than a
    run's, for a page of a split without goals (E-NAV-PAGE), and as `read_files` does.
    """
    trained = load_run(run)
    twin = None if blind is None else load_run(blind)
    if twin is None:
        return _eval(trained, request)
    require_blind(twin)
    alone = dataclasses.replace(request, submission=None, page=None, images=None)
    return _eval(trained, request) | {"blind_twin": _eval(twin, alone)}


def _eval(trained: TrainedAgent, request: NavigationRequest) -> dict[str, Any]:
    trained, store, data = request.open(trained)
    require_features(store, trained.manifest)
    settings, norm = trained.settings, feature_norm(trained.model)
    graphs = request.graphs or _graphs_of(trained, data)
    files = read_files(settings, [request.split], store=store, data=data, graphs=graphs)
    (read,) = files.splits
    if request.page is not None:
        require_references(read)
    accelerator = accelerator_of_trained(request.device, settings)
    environment = make_environment(files, norm, accelerator.device)
    split = encode(read, trained.vocabulary, environment, settings)
    require_file(predictions_path(trained.folder, split), "predictions")
    walk = walk_of(settings, environment, forbid_visited=request.forbid_visited)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    with inference_errors(settings.precision):
        walks = walk_split(model, walk, split, environment, settings, accelerator)
    if request.submission is not None:
        write_submission(request.submission, walks, read, environment.scans)
    if request.page is not None:
        write_page(request.page, walks, environment.scans, request.images)
    written = {"submission": request.submission, "page": request.page}
    return {
        "split": read.name,
        "stage": trained.folder.name,
        "epoch": trained.epoch,
        "blind": settings.blind,
        "selected_on": settings.select_split if settings.eval_split else "",
        "forbid_visited": request.forbid_visited,
        **report_split(trained.folder, split, walks, environment),
        **{name: str(path) for name, path in written.items() if path is not None},
    }


def _graphs_of(trained: TrainedAgent, data: Path) -> Path:
    """Return the folder of graphs that a run was given; without one, that in `data` or its own data."""
    if trained.settings.graphs:
        return Path(trained.settings.graphs)
    folders = (data / GRAPHS, Path(trained.manifest.data) / GRAPHS)
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def format_eval(result: Mapping[str, Any]) -> str:
    """Return the result of `eval_run` as lines for people."""
    written = [f"written: {result[name]}" for name in ("submission", "page") if name in result]
    text = format_split(result["split"], result)
    if result["split"] == result["selected_on"]:
        text += "\nthis split chose the checkpoint, so that its score is optimistic"
    return "\n".join([text, *written])
