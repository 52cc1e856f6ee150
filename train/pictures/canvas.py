"""What every picture here shares: colours, bare axes, and writing a PNG."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FAINT = "#222222", "#8a8f98"
BLUE, GREEN, ORANGE = "#2563a8", "#1a7f37", "#c2660a"
DOTS = 110  # an inch


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches; it needs no screen, and no backend is chosen for others."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", out: Path, *, dpi: int = DOTS) -> None:
    """Write a figure as a PNG."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with missing_glyphs(), atomic_file(out) as file:
        figure.savefig(file, format="png", dpi=dpi)


@contextlib.contextmanager
def missing_glyphs() -> Iterator[None]:
    """Let texts of any alphabet be drawn; what the font lacks becomes boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def bare(axis: "Axes") -> None:
    """Take away ticks and frame, for pictures."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
