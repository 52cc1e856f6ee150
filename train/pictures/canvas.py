"""What all pictures share: colours, axes without a frame, and writing a PNG."""

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
DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches; it needs no screen, and leaves matplotlib's backend alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", out: Path, *, dpi: int = DPI) -> None:
    """Write a figure as a PNG."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with missing_glyphs(), atomic_file(out) as file:
        figure.savefig(file, format="png", dpi=dpi)


@contextlib.contextmanager
def missing_glyphs() -> Iterator[None]:
    """Draw texts of any alphabet without a warning; letters that the font lacks become boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def bare(axis: "Axes") -> None:
    """Remove ticks and frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
