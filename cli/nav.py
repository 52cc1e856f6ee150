"""clipfeat nav: what a data set of vision-and-language navigation stands on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import UsageError
from ..base.text import counted, tell
from .options import LocalPath, as_json, patient_stdout, show_json

if TYPE_CHECKING:
    from ..train.navigation.graphs import Scan


@click.group()
def nav() -> None:
    """Describe the scans of vision-and-language navigation.

    \b
    $ clipfeat nav graph connectivity/
    """


@nav.command()
@click.argument("folder", metavar="DIR", type=LocalPath(file_okay=False))
@click.option("--scan", metavar="SCAN", help="Describe this scan alone.")
@as_json
def graph(*, folder: Path, scan: str | None, as_json: bool) -> None:
    """Describe the scans whose connectivity files are in DIR.

    DIR has the files SCAN_connectivity.json of the Matterport3D simulator; its scans.txt, if there is
    one, says which. Prints viewpoints, edges, metres, degrees and what is odd. With --json also the
    candidates of each viewpoint, in the order of their actions: the neighbour, the view that looks
    there, heading and elevation in radians (clockwise from north, up), and the distance in metres.

    \b
    $ clipfeat nav graph connectivity/
    $ clipfeat nav graph connectivity/ --scan 17DRP5sb8fy --json
    """
    from ..train.navigation.graphs import read_scans

    scans = list(read_scans(folder, None if scan is None else [scan]).values())
    with patient_stdout():
        if as_json:
            show_json(to_json(scans))
        else:
            tell(description(scans))


def to_json(scans: Sequence["Scan"]) -> dict[str, Any]:
    """Return what is known of scans for scripts.

    Raises UsageError (E-NAV-GRAPH) if two have a viewpoint of one name.
    """
    from ..train.navigation.candidates import find_candidates, named_candidates

    summaries: dict[str, Any] = {}
    candidates: dict[str, Any] = {}
    for scan in scans:
        for name in candidates.keys() & scan.index.keys():
            raise UsageError(
                f"scan {scan.name} and one before it have a viewpoint {name!r}; describe one scan at a "
                "time with --scan",
                code="E-NAV-GRAPH",
            )
        candidates |= named_candidates(scan, find_candidates(scan))
        summaries[scan.name] = {
            "viewpoints": len(scan.viewpoints),
            "edges": len(scan.edges),
            "metres": scan.metres,
            "odd": list(scan.odd),
        }
    return {"scans": summaries, "candidates": candidates}


def description(scans: Sequence["Scan"]) -> str:
    """Return a line for each scan, lines of what is odd below it, and the sum."""
    lines = []
    for each in scans:
        degrees = [len(row) for row in each.neighbours]
        lines.append(
            f"{each.name}: {counted(len(each.viewpoints), 'viewpoint')}, "
            f"{counted(len(each.edges), 'edge')}, "
            f"{each.metres:,.1f} m, degree {min(degrees)} to {max(degrees)}, "
            f"mean {sum(degrees) / len(degrees):.2f}"
        )
        lines += [f"  {odd}" for odd in each.odd]
    if len(scans) > 1:
        lines.append(
            f"{len(scans):,} scans: {sum(len(each.viewpoints) for each in scans):,} viewpoints, "
            f"{sum(len(each.edges) for each in scans):,} edges, "
            f"{sum(each.metres for each in scans):,.1f} m"
        )
    return "\n".join(lines)
