"""A page of examples for people: one HTML file that loads nothing and runs nothing."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from ..base.files import write_atomically

SHOWN = 24  # examples of a page, from the best to the worst
HEAD = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em }}
article {{ border-top: 1px solid #dde0e4; padding: 1em 0; overflow: auto }}
h2 {{ font-size: 1.15em; margin: 0; overflow-wrap: break-word }}
p, ul {{ margin: .3em 0 }} li, .faint {{ color: #6b717a }} img {{ max-width: 100%; display: block }}
.strip {{ display: flex; flex-wrap: wrap; gap: .4em; margin-top: .4em }} .strip figure {{ width: 8.5em; margin: 0; font-size: .85em }}
</style>
"""


def evenly_spaced(count: int) -> list[int]:
    """Return up to SHOWN places in a ranking of `count` examples, its ends among them."""
    return np.linspace(0, count - 1, min(SHOWN, count)).astype(int).tolist()


def image_element(picture: bytes, alt: str, *, kind: str = "png") -> str:
    """Return an image element that contains its picture, a png or jpeg."""
    data = base64.b64encode(picture).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{data}">\n'


def write_page(out: Path, title: str, introduction: str, articles: Sequence[str]) -> None:
    """Write a page of articles, which are HTML; title and introduction are plain text."""
    head = HEAD.format(title=escape(title))
    heading = f"<h1>{escape(title)}</h1>\n<p>{escape(introduction)}</p>"
    body = "\n".join([heading, *articles])
    write_atomically(out, f"{head}{body}\n</html>\n".encode(errors="xmlcharrefreplace"))
