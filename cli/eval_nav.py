"""clipfeat eval nav: the scores of a run's walks or of a file's, checked against the graphs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..base.errors import UsageError, needs_extra
from ..base.files import require_file
from ..base.text import counted
from .options import LocalPath, as_json, refuse, scored_on, show

A_PATH = LocalPath()


@click.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split of the folder --data, such as val_unseen.")
@scored_on
@click.option(
    "--graphs",
    type=A_PATH,
    metavar="DIR",
    help="Folder of the connectivity files.  [default: that of the run]",
)
@click.option(
    "--forbid-visited",
    is_flag=True,
    help="Never return to a viewpoint, as published submissions of EnvDrop do.",
)
@click.option(
    "--blind", type=A_PATH, metavar="RUN", help="Also score this run without features and compare."
)
@click.option(
    "--results",
    type=A_PATH,
    help="Score these walks instead of a run's: R2R's JSON list of instr_id and trajectory, or RxR's "
    "JSON lines.",
)
@click.option("--subset", is_flag=True, help="Allow --results without walks for some instructions.")
@click.option("--submission", type=A_PATH, metavar="OUT", help="Write the walks for upload.")
@click.option(
    "--page", type=A_PATH, metavar="OUT", help="Write a page of episodes with their maps."
)
@click.option(
    "--images",
    type=LocalPath(file_okay=False, exists=True),
    metavar="DIR",
    help="Folder of the views, SCAN/VIEWPOINT with 36 images each, for --page.",
)
@as_json
def nav(
    *,
    run: Path | None,
    blind: Path | None,
    results: Path | None,
    subset: bool,
    submission: Path | None,
    page: Path | None,
    images: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Walk a split with a run's best agent and score the walks; or score a file of walks.

    Writes RUN/STAGE/predictions_<split>.json, and prints success, SPL, nDTW and the other metrics of
    R2R and RxR, with 95% intervals over paths, by length, language and scan, and beside walkers that
    see nothing. Test splits, whose goals are hidden, are walked and not scored.

    With --results, each walk must begin at its instruction's start and take edges of the graph alone,
    and each instruction of the split must have one. --data may be a file of the split.

    \b
    $ clipfeat eval nav run --split val_unseen --page episodes.html
    $ clipfeat eval nav run --split val_unseen --blind blind --json
    $ clipfeat eval nav run --split test --submission submit.json
    $ clipfeat eval nav --results r.json --data R2R/ --graphs connectivity/ --split val_unseen
    """
    if images is not None and page is None:
        raise UsageError(
            "--images are shown on a page; add --page OUT, or drop it", code="E-OPTION-MISSING"
        )
    for path, option in ((submission, "--submission"), (page, "--page")):
        if path is not None:
            require_file(path, option)
    if submission is not None:
        _require_another(submission, "--submission", {"--page": page, "--results": results})
    if page is not None:
        _require_another(page, "--page", {"--results": results})
    if run is not None:
        refuse({"results": results, "subset": subset}, "RUN")
        if options["split"] is None:
            raise UsageError(
                "RUN needs --split, such as --split val_unseen", code="E-OPTION-MISSING"
            )
        with needs_extra("train"):
            from ..train.tasks.navigation.evaluation import (
                NavigationRequest,
                eval_run,
                format_eval,
            )
        request = NavigationRequest(submission=submission, page=page, images=images, **options)
        result = eval_run(run, request, blind=blind)
        show(result, format_eval(result), as_json=as_json)
        return
    data, graphs, split = (options.pop(name) for name in ("data", "graphs", "split"))
    if results is None or data is None or graphs is None:
        raise UsageError(
            "pass RUN and --split, or --results, --data and --graphs", code="E-OPTION-MISSING"
        )
    refuse(options | {"blind": blind}, "--results")
    if subset and submission is not None:
        raise UsageError(
            "--submission needs a walk for each instruction, and --subset allows fewer; drop one",
            code="E-OPTION-EXCLUDES",
        )
    record, lines = _file(results, data, graphs, split, subset, submission, page, images)
    show(record, lines, as_json=as_json)


def _require_another(out: Path, option: str, others: Mapping[str, Path | None]) -> None:
    """Raise UsageError (E-PATH-TWICE) where a file to write is that of another option."""
    for other, path in others.items():
        if path is not None and path.resolve() == out.resolve():
            raise UsageError(
                f"{option} and {other} are the same file, {out}, which would be overwritten; pass "
                "another name",
                code="E-PATH-TWICE",
            )


def _file(
    results: Path,
    data: Path,
    graphs: Path,
    split: str | None,
    subset: bool,  # noqa: FBT001
    submission: Path | None,
    page: Path | None,
    images: Path | None,
) -> tuple[dict[str, Any], str]:
    """Check and score a file of walks; return the scores, and lines for people."""
    with needs_extra("train"):
        from ..train.navigation.evaluation import evaluate_walks, format_result, read_split
        from ..train.navigation.results import (
            check_walks,
            read_results,
            require_references,
            write_submission,
        )

    walks = read_results(results)
    episodes, scans = read_split(data, graphs, split)
    checked = check_walks(walks, episodes, scans, path=results, subset=subset)
    if page is not None:
        require_references(episodes)
    if submission is not None:
        write_submission(submission, checked, episodes, scans)
    record: dict[str, Any] = {
        "split": episodes.name,
        "n": len(checked),
        "left_out": episodes.left_out.counts,
    }
    lines = f"{results}: {counted(len(checked), 'walk')}, all on edges of their graphs"
    if not episodes.has_goals:
        lines += f"; the goals of {episodes.file} are hidden, so that nothing is scored"
    else:
        scores = evaluate_walks(checked, scans)
        record |= scores
        lines += f"\n{format_result(scores)}"
    if page is not None:
        with needs_extra("train"):  # drawing imports matplotlib
            from ..train.navigation.page import write_page

            write_page(page, checked, scans, images)
    for path in filter(None, (submission, page)):
        lines += f"\nwritten: {path}"
    return record, lines
