"""Where a captioner looks for some words of a caption, side by side."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from .attention import show, show_cells, show_lit
from .canvas import FAINT, INK, missing_glyphs, new_figure

WIDE = 1.7  # inches, of a panel
TALLEST = 1.5  # times as high as wide; 1 / TALLEST is the flattest
DPI = 80  # a page has dozens of these


def draw_words(
    words: Sequence[tuple[str, Float[np.ndarray, "row col"]]],
    image: Shaped[np.ndarray, "height width 3"] | None,
) -> bytes:
    """Return a PNG: the image, then a panel for each word with its attention over the cells.

    Without an image the cells stand alone. An image is taken to cover the grid.
    """
    shown = len(words) + (image is not None)
    height, width = words[0][1].shape if image is None else image.shape[:2]
    tall = WIDE * min(max(height / width, 1 / TALLEST), TALLEST)
    figure = new_figure(WIDE * shown, tall + 0.3)
    axes = figure.subplots(1, shown, squeeze=False)[0].tolist()
    if image is not None:
        seen = axes.pop(0)
        show(seen, image)
        seen.set_title("the image", fontsize=9, color=FAINT)
    for axis, (word, attention) in zip(axes, words, strict=True):
        if image is None:
            show_cells(axis, attention)
        else:
            show_lit(axis, image, attention)
        axis.set_title(textwrap.shorten(word, 20), fontsize=9, color=INK, parse_math=False)
    with missing_glyphs(), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        return file.getvalue()
