"""A page of episodes: the instruction, the scores of the walk, and both paths on a map."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path

import numpy as np

from .. import html_page
from ..metrics.navigation import WalkScores
from .candidates import find_candidates
from .evaluation import score_walks
from .graphs import Scan
from .maps import draw_map
from .results import Walked
from .strips import legs_of, read_pictures, shortened


def write_page(
    out: Path, walks: Sequence[Walked], scans: Mapping[str, Scan], images: Path | None = None
) -> None:
    """Write a page of walks, evenly from the best to the worst by nDTW; it needs no other file.

    With `images`, a folder of views as `strips.read_pictures` reads it, the views through which the
    agent left each viewpoint are shown below its map. Raises UsageError where it has none of them.
    """
    scores = score_walks(walks, scans)
    order = np.argsort([-score.ndtw for score in scores], kind="stable")
    chosen: list[int] = order[html_page.evenly_spaced(len(walks))].tolist()
    introduction = (
        f"{len(chosen)} of {len(walks)} walks, evenly from the best to the worst by nDTW. On each "
        "map the broad green line is the reference, the thin blue one the walk."
    )
    strips = [""] * len(chosen)
    if images is not None:
        strips = _strips(images, [walks[n] for n in chosen], scans)
        introduction += (
            " Below it are the views through which the agent left each viewpoint, with its turn from "
            "the heading before, and what it saw where it stopped."
        )
    articles = [
        _article(walks[n], scores[n], scans[walks[n].episode.scan], strip)
        for n, strip in zip(chosen, strips, strict=True)
    ]
    html_page.write_page(out, "Episodes", introduction, articles)


def _strips(images: Path, walks: Sequence[Walked], scans: Mapping[str, Scan]) -> list[str]:
    """Return the strip of views of each walk, as HTML."""
    candidates = {name: find_candidates(scans[name]) for name in {w.episode.scan for w in walks}}
    legs = [
        legs_of(scans[w.episode.scan], candidates[w.episode.scan], w.walk, w.episode.heading)
        for w in walks
    ]
    shown = [shortened(each) for each in legs]
    names = [
        [(w.episode.scan, leg.viewpoint, leg.view) for leg in each]
        for w, each in zip(walks, shown, strict=True)
    ]
    pictures = read_pictures(images, chain.from_iterable(names))
    return [
        "".join(
            ['<div class="strip">\n']
            + [_figure(leg.text, pictures.get(name)) for leg, name in zip(each, named, strict=True)]
            + ["</div>\n"]
        )
        for each, named in zip(shown, names, strict=True)
    ]


def _figure(text: str, picture: bytes | None) -> str:
    image = (
        '<p class="faint">no picture</p>\n'
        if picture is None
        else html_page.image_element(picture, text, kind="jpeg")
    )
    return f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>\n"


def _article(each: Walked, scores: WalkScores, scan: Scan, strip: str) -> str:
    episode = each.episode
    image = html_page.image_element(
        draw_map(scan, each.walk, each.reference), "the scan from above"
    )
    told = "success" if scores.sr else "failure"
    numbers = (
        f"{told}, {scores.ne:.1f} m from the goal; {scores.tl:.1f} m walked; SPL "
        f"{100 * scores.spl:.0f}, nDTW {100 * scores.ndtw:.0f}, CLS {100 * scores.cls:.0f}"
    )
    return (
        f'<article>\n<h2 lang="{escape(episode.language)}">{escape(episode.text)}</h2>\n'
        f'<p class="faint">{escape(episode.instruction_id)}, scan {escape(episode.scan)}</p>\n'
        f"<p>{escape(numbers)}</p>\n"
        f"{image}{strip}</article>"
    )
