"""clipfeat eval nav: the scores of walks, checked against the graphs of their scans."""

from pathlib import Path
from typing import Any

import click

from ..base.errors import UsageError, needs_extra
from ..base.files import require_file
from ..base.text import counted
from .options import LocalPath, as_json, show

A_PATH = LocalPath()


@click.command()
@click.option(
    "--results",
    type=A_PATH,
    required=True,
    help="Walks to score: R2R's JSON list of instr_id and trajectory, or RxR's JSON lines.",
)
@click.option(
    "--data", type=A_PATH, required=True, help="Folder of R2R's or RxR's files, or one of them."
)
@click.option(
    "--graphs",
    type=A_PATH,
    required=True,
    metavar="DIR",
    help="Folder of the connectivity files.",
)
@click.option("--split", help="Split of the folder --data, such as val_unseen.")
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
    results: Path,
    data: Path,
    graphs: Path,
    split: str | None,
    subset: bool,
    submission: Path | None,
    page: Path | None,
    images: Path | None,
    as_json: bool,
) -> None:
    """Check a file of walks and score it.

    Each walk must begin at its instruction's start and take edges of the graph alone, and each
    instruction of the split must have one. Prints success, SPL, nDTW and the other metrics of R2R
    and RxR, with 95% intervals over paths, by length, language and scan, and beside walkers that see
    nothing. Test splits, whose goals are hidden, are checked and not scored.

    \b
    $ clipfeat eval nav --results r.json --data R2R/ --graphs connectivity/ --split val_unseen
    $ clipfeat eval nav --results r.json --data R2R/ --graphs connectivity/ --split test \\
        --submission submit.json
    """
    if subset and submission is not None:
        raise UsageError(
            "--submission needs a walk for each instruction, and --subset allows fewer; drop one",
            code="E-OPTION-EXCLUDES",
        )
    if images is not None and page is None:
        raise UsageError(
            "--images are shown on a page; add --page OUT, or drop it", code="E-OPTION-MISSING"
        )
    for path, option in ((submission, "--submission"), (page, "--page")):
        if path is not None:
            require_file(path, option)
    with needs_extra("train"):
        from ..train.navigation.evaluation import evaluate_walks, format_result, read_split
        from ..train.navigation.results import check_walks, read_results, write_submission

    walks = read_results(results)
    episodes, scans = read_split(data, graphs, split)
    checked = check_walks(walks, episodes, scans, path=results, subset=subset)
    if page is not None and not episodes.has_goals:
        raise UsageError(
            f"--page shows walks beside their references, and {episodes.file} has none; drop it",
            code="E-NAV-PAGE",
        )
    if submission is not None:
        write_submission(submission, checked, episodes, scans)
    left_out = {reason: len(ids) for reason, ids in episodes.left_out.ids.items()}
    record: dict[str, Any] = {"split": episodes.name, "n": len(checked), "left_out": left_out}
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
    show(record, lines, as_json=as_json)
