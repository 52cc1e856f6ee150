"""Small charts as SVG and HTML, in the colours of the page; each says in words what it shows."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from .colours import SEQUENCE, colours_of_numbers, png, shrunk

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 12, 24  # of the axes
MOST_POINTS = 240  # of a curve
MOST_COLUMNS = 48  # of a histogram
PICTURE_PIXELS = 240  # of the longer side, or a few more


def number_text(number: float) -> str:
    """Return a number for people, with three digits.

    >>> number_text(0.012345), number_text(12345.6), number_text(0.0)
    ('0.0123', '12.3k', '0')
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if size <= abs(number) < 1e9:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def curve(
    values: np.ndarray,
    *,
    name: str,
    spread: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Return channels in ascending order of their value, with a band of `spread` around it.

    The axis has `limits`, or reaches as far as the numbers do.
    """
    order = np.argsort(values, kind="stable")
    points = np.unique(np.linspace(0, len(order) - 1, MOST_POINTS).round().astype(int))
    chosen = order[points]
    middle = values[chosen]
    around = np.zeros(len(chosen)) if spread is None else spread[chosen]
    low, high = float((middle - around).min()), float((middle + around).max())
    axes = _Axes(len(order), *(limits or (low, high)))
    xs = [axes.x(float(point)) for point in points]
    band = ""
    if spread is not None:
        upper = [f"{x:.1f},{axes.y(v):.1f}" for x, v in zip(xs, middle + around, strict=True)]
        lower = [f"{x:.1f},{axes.y(v):.1f}" for x, v in zip(xs, middle - around, strict=True)]
        band = f'<polygon class="band" points="{" ".join(upper + lower[::-1])}"/>'
    line = " ".join(f"{x:.1f},{axes.y(v):.1f}" for x, v in zip(xs, middle, strict=True))
    inside = f'{axes.lines()}{band}<polyline class="curve" points="{line}"/>'
    return _chart(inside + _below("lowest channel", "highest channel"), name)


class _Axes:
    """From the numbers of a chart to its pixels."""

    def __init__(self, count: int, low: float, high: float):
        self._last = max(1, count - 1)
        self._low, self._high = (low, high) if high > low else (low - 0.5, low + 0.5)

    def x(self, place: float) -> float:
        """Return where a place from 0 to count - 1 lies."""
        return LEFT + (WIDTH - LEFT - RIGHT) * place / self._last

    def y(self, number: float) -> float:
        """Return where a number lies."""
        share = (number - self._low) / (self._high - self._low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def lines(self) -> str:
        """Return the lines at the lowest and the highest number, and at 0 between them."""
        numbers = [self._low, self._high]
        room = 0.12 * (self._high - self._low)
        numbers += [0.0] if self._low + room < 0 < self._high - room else []
        return "".join(
            f'<path class="axis" d="M{LEFT} {self.y(n):.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 5}" y="{self.y(n) + 3.5:.1f}" text-anchor="end">{number_text(n)}</text>'
            for n in numbers
        )


def _below(start: str, end: str) -> str:
    """Return two texts below a chart, at its ends."""
    y = HEIGHT - 7
    return (
        f'<text x="{LEFT}" y="{y}">{escape(start)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{escape(end)}</text>'
    )


def _chart(inside: str, name: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(name)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{inside}</svg>'
    )


def histogram(edges: np.ndarray, counts: np.ndarray, *, name: str) -> str:
    """Return columns of counts, edge to edge, on an axis that grows by factors."""
    axes = _Axes(len(counts) + 1, 0.0, float(counts.max(initial=1)))
    base = axes.y(0.0)
    columns: list[str] = []
    for number, count in enumerate(counts.tolist()):
        if count:
            top = min(axes.y(count), base - 1)  # every count above 0 is visible
            x, width = axes.x(number), axes.x(1) - axes.x(0)
            columns.append(
                f'<rect class="column" x="{x + 0.4:.1f}" y="{top:.1f}" '
                f'width="{max(0.8, width - 0.8):.1f}" height="{base - top:.1f}"/>'
            )
    ends = (number_text(edge) for edge in (edges[0], edges[-1])) if len(edges) else ("", "")
    return _chart(axes.lines() + "".join(columns) + _below(*ends), name)


def picture(data: bytes, alt: str, kind: str, media: str = "image/png") -> str:
    """Return an image element of class `kind` that contains its picture."""
    return f'<img class="{kind}" alt="{escape(alt)}" src="{data_url(data, media)}">'


def data_url(data: bytes, media: str) -> str:
    """Return a URL that contains a file of a media type."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def cells_png(colours: np.ndarray, mask: np.ndarray) -> bytes:
    """Return (row, col, 3) uint8 colours of cells as a PNG file with some pixels for each cell.

    Cells where `mask`, (row, col) bool, is false are transparent.
    """
    colours, mask = shrunk(colours), shrunk(mask)
    times = -(-PICTURE_PIXELS // max(mask.shape))
    return png(*(array.repeat(times, axis=0).repeat(times, axis=1) for array in (colours, mask)))


def heat_map(numbers: np.ndarray, *, name: str) -> str:
    """Return (row, col) numbers as colours with their scale; where they are NaN, it is hatched."""
    known = np.isfinite(numbers)
    low, high = (
        (float(pick(numbers[known])) for pick in (np.min, np.max)) if known.any() else (0.0, 0.0)
    )
    colours = colours_of_numbers(np.where(known, numbers, low), low, high)
    image = picture(
        cells_png(colours, known), f"{name}, from {number_text(low)} to {number_text(high)}", "map"
    )
    return f"{image}{_scale(low, high)}"


def _scale(low: float, high: float) -> str:
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in SEQUENCE.tolist())
    return (
        f'<div class="scale" aria-hidden="true">{number_text(low)}'
        f'<i style="background:linear-gradient(90deg,{stops})"></i>{number_text(high)}</div>'
    )


def share_bar(parts: Sequence[tuple[str, float]], name: str) -> str:
    """Return a bar whose parts, (class, amount), lie side by side."""
    total = sum(amount for _, amount in parts) or 1.0
    spans = "".join(
        f'<span class="{kind}" style="width:{100 * amount / total:.3f}%"></span>'
        for kind, amount in parts
        if amount
    )
    return f'<div class="bar" role="img" aria-label="{escape(name)}">{spans}</div>'
