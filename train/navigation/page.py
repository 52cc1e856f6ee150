"""A page of episodes: the instruction, the scores of the walk, and both paths on a map."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from .. import html_page
from ..metrics.navigation import WalkScores
from .evaluation import score_walks
from .graphs import Scan
from .maps import draw_map
from .results import Walked


def write_page(out: Path, walks: Sequence[Walked], scans: Mapping[str, Scan]) -> None:
    """Write a page of walks, evenly from the best to the worst by nDTW; it needs no other file."""
    scores = score_walks(walks, scans)
    order = np.argsort([-score.ndtw for score in scores], kind="stable")
    chosen: list[int] = order[html_page.evenly_spaced(len(walks))].tolist()
    introduction = (
        f"{len(chosen)} of {len(walks)} walks, evenly from the best to the worst by nDTW. On each "
        "map the broad green line is the reference, the thin blue one the walk."
    )
    articles = [_article(walks[n], scores[n], scans[walks[n].episode.scan]) for n in chosen]
    html_page.write_page(out, "Episodes", introduction, articles)


def _article(each: Walked, scores: WalkScores, scan: Scan) -> str:
    episode = each.episode
    image = html_page.png_image(draw_map(scan, each.walk, each.reference), "the scan from above")
    told = "success" if scores.sr else "failure"
    numbers = (
        f"{told}, {scores.ne:.1f} m from the goal; {scores.tl:.1f} m walked; SPL "
        f"{100 * scores.spl:.0f}, nDTW {100 * scores.ndtw:.0f}, CLS {100 * scores.cls:.0f}"
    )
    return (
        f'<article>\n<h2 lang="{escape(episode.language)}">{escape(episode.text)}</h2>\n'
        f'<p class="faint">{escape(episode.instruction_id)}, scan {escape(episode.scan)}</p>\n'
        f"<p>{escape(numbers)}</p>\n"
        f"{image}</article>"
    )
