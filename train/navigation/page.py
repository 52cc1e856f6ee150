"""A page of episodes: the instruction, the scores of the walk, and both paths on a map."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ...base.files import write_atomically
from ..metrics.navigation import WalkScores
from .evaluation import score_walks
from .graphs import Scan
from .maps import draw_map
from .results import Walked

SHOWN = 24  # episodes, from the best walk to the worst
HEAD = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Episodes</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em }
article { border-top: 1px solid #dde0e4; padding: 1em 0; overflow: auto }
h2 { font-size: 1.15em; margin: 0; overflow-wrap: break-word }
p { margin: .3em 0 } .faint { color: #6b717a } img { max-width: 100%; display: block }
</style>
"""


def write_page(out: Path, walks: Sequence[Walked], scans: Mapping[str, Scan]) -> None:
    """Write a page of walks, evenly from the best to the worst by nDTW; it needs no other file."""
    scores = score_walks(walks, scans)
    order = np.argsort([-score.ndtw for score in scores], kind="stable")
    places = np.linspace(0, len(walks) - 1, min(SHOWN, len(walks))).astype(int)
    chosen = [int(number) for number in order[places]]
    introduction = (
        f"{len(chosen)} of {len(walks)} walks, evenly from the best to the worst by nDTW. On each "
        "map the broad green line is the reference, the thin blue one the walk."
    )
    articles = [_article(walks[n], scores[n], scans[walks[n].episode.scan]) for n in chosen]
    body = "\n".join([f"<h1>Episodes</h1>\n<p>{escape(introduction)}</p>", *articles])
    write_atomically(out, f"{HEAD}{body}\n</html>\n".encode(errors="xmlcharrefreplace"))


def _article(each: Walked, scores: WalkScores, scan: Scan) -> str:
    episode = each.episode
    image = base64.b64encode(draw_map(scan, each.walk, each.reference)).decode()
    told = "success" if scores.sr else "failure"
    numbers = (
        f"{told}, {scores.ne:.1f} m from the goal; {scores.tl:.1f} m walked; SPL "
        f"{100 * scores.spl:.0f}, nDTW {100 * scores.ndtw:.0f}, CLS {100 * scores.cls:.0f}"
    )
    return (
        f'<article>\n<h2 lang="{escape(episode.language)}">{escape(episode.text)}</h2>\n'
        f'<p class="faint">{escape(episode.instruction_id)}, scan {escape(episode.scan)}</p>\n'
        f"<p>{escape(numbers)}</p>\n"
        f'<img alt="the scan from above" src="data:image/png;base64,{image}">\n</article>'
    )
