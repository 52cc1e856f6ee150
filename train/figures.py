"""Figures: what all of them share, and the curves of a run."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from ..base.files import atomic_file
from .run import read_manifest, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#8a8f98"
BLUE, GREEN, ORANGE = "#2563a8", "#1a7f37", "#c2660a"
DPI = 110
SMOOTHING = 80  # the standard deviation of the smooth line's Gaussian is an 80th of the run
MAX_VALUE = 1e30  # of the numbers that are drawn; no successful training has larger ones
LOG_RATIO = 10.0  # a loss that falls to a tenth is drawn on a logarithmic axis


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


def draw_curves(run: Path, out: Path) -> None:
    """Write a PNG of a run's metrics: loss, score and learning rate over its updates.

    Raises UsageError for a folder that is not a run.
    """
    manifest, lines = read_manifest(run), read_metrics(run)
    losses = _with(lines, "step", "loss", "lr")
    scores = _with(lines, "step", "score", "epoch")
    figure = new_figure(7.2, 6.4)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.2))
    for axis in axes:
        _plain(axis)
    _draw_loss(axes[0], losses)
    _draw_score(axes[1], scores)
    _draw_rate(axes[2], losses)
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    axes[2].xaxis.set_major_formatter("{x:,.0f}")
    by_epoch = not manifest.settings.get("eval_every")
    axes[2].set_xlabel(_updates(scores) if by_epoch else "update", color=INK)
    figure.suptitle(f"{run.resolve().name}  ({manifest.task})", color=INK, parse_math=False)
    save(figure, out)


def smooth(values: Float64[np.ndarray, " line"]) -> Float64[np.ndarray, " line"]:
    """Return the Gaussian mean around each value; near the ends, of the values that exist.

    >>> smooth(np.array([3.0, 1.0])).tolist()
    [3.0, 1.0]
    """
    width = len(values) // SMOOTHING
    if width == 0:
        return values
    weights = np.exp(-0.5 * (np.arange(-3 * width, 3 * width + 1) / width) ** 2)
    total = np.convolve(values, weights, mode="same")
    return total / np.convolve(np.ones_like(values), weights, mode="same")


def _draw_loss(axis: "Axes", lines: Sequence[dict[str, Any]]) -> None:
    axis.set_ylabel("loss", color=INK)
    if not lines:
        return _draw_nothing(axis, "no losses")
    steps, losses = _column(lines, "step"), _column(lines, "loss")
    smoothed = smooth(losses)
    if losses.min() > 0 and smoothed.max() > LOG_RATIO * smoothed.min():
        axis.set_yscale("log")
        smoothed = np.exp(smooth(np.log(losses)))  # the mean that such an axis shows
    axis.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=1)
    axis.plot(steps, smoothed, color=BLUE, linewidth=1.8, **_marker(lines))
    _label(axis, f"{smoothed[-1]:.3g}", (steps[-1], smoothed[-1]), BLUE)


def _draw_score(axis: "Axes", lines: Sequence[dict[str, Any]]) -> None:
    axis.set_ylabel("score", color=INK)
    if not lines:
        return _draw_nothing(axis, "no evaluations")
    steps, scores = _column(lines, "step"), _column(lines, "score")
    best = int(scores.argmax())  # the first of equal scores, as for the best checkpoint
    axis.plot(steps, scores, color=GREEN, linewidth=1.8, marker="o", markersize=3.5)
    axis.plot(steps[best], scores[best], marker="*", markersize=14, color=ORANGE, zorder=3)
    text = f"best {scores[best]:.2f}, epoch {lines[best]['epoch']}"
    axis.margins(y=0.2)
    _label(axis, text, (steps[best], scores[best]), ORANGE)


def _draw_rate(axis: "Axes", lines: Sequence[dict[str, Any]]) -> None:
    axis.set_ylabel("rate", color=INK)
    if not lines:
        return _draw_nothing(axis, "no learning rates")
    axis.plot(_column(lines, "step"), _column(lines, "lr"), color=FAINT, **_marker(lines))
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set_ylim(bottom=0)


def _with(lines: Sequence[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Return the lines that have a number that can be drawn in each of the columns."""

    def is_number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < MAX_VALUE

    return [line for line in lines if all(is_number(line.get(column)) for column in columns)]


def _column(lines: Sequence[dict[str, Any]], key: str) -> Float64[np.ndarray, " line"]:
    return np.array([line[key] for line in lines], dtype=np.float64)


def _marker(lines: Sequence[object]) -> dict[str, Any]:
    """Return options for a curve: a single point has no visible line, and needs a marker."""
    return {"marker": "o"} if len(lines) == 1 else {}


def _label(axis: "Axes", text: str, point: tuple[float, float], color: str) -> None:
    """Write above a point, on the side with more space."""
    left, right = axis.get_xlim()
    side = "right" if point[0] > (left + right) / 2 else "left"
    axis.annotate(
        text,
        point,
        xytext=(0, 9),
        textcoords="offset points",
        ha=side,
        color=color,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},  # over the curve
    )


def _updates(scores: Sequence[dict[str, Any]]) -> str:
    """Return the label of the common axis, with the number of updates of an epoch."""
    if len(scores) < 2 or scores[0]["epoch"] < 1:  # the only epoch may be incomplete
        return "update"
    return f"update ({scores[0]['step'] // scores[0]['epoch']:,} an epoch)"


def _draw_nothing(axis: "Axes", text: str) -> None:
    axis.set_yticks([])
    axis.text(0.5, 0.5, f"{text} yet", transform=axis.transAxes, ha="center", color=FAINT)


def _plain(axis: "Axes") -> None:
    axis.grid(color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT, labelsize=9)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c9cdd2")
