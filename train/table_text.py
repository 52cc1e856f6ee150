"""The table of `clipfeat compare --table` as text, Markdown and LaTeX."""

import re
from collections.abc import Iterator
from itertools import zip_longest

from ..base.text import printable
from .compare import RESAMPLES
from .compare_table import SEEDS, Cell, Table

Grid = list[list[list[str]]]  # row, column, lines of a cell


def format_table(table: Table, style: str = "text") -> str:
    """Return the table as text for people, as Markdown or as LaTeX (`STYLES`)."""
    grid = [[[""], *(task.lines() for task in table.tasks)]]
    grid += [
        [[name], *(_cell_lines(table.cells.get((name, task))) for task in table.tasks)]
        for name in table.encoders
    ]
    return STYLES[style](grid, list(_notes(table)))


def _cell_lines(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["-"]
    lines = [f"{cell.score:.2f}{' *' if cell.is_sure else ''}"]
    if cell.difference is not None and cell.interval is not None:
        low, high = cell.interval
        lines.append(f"{cell.difference:+.2f} ({low:+.2f} to {high:+.2f})")
        if SEEDS not in cell.over:
            lines[-1] += " [1]"
    if len(cell.scores) > 1:
        lines.append("seeds " + " ".join(f"{score:.2f}" for score in cell.scores))
    return lines


def _notes(table: Table) -> Iterator[str]:
    yield (
        "Percent, or 100 x CIDEr-D of captions: the mean over seeds. Under it the difference to "
        f"{table.baseline}, with its 95% bootstrap interval ({RESAMPLES:,} resamples) over images "
        "and seeds."
    )
    compared = [cell for cell in table.cells.values() if cell.interval is not None]
    if any(SEEDS not in cell.over for cell in compared):
        yield "[1] over images alone: one of the two has one seed."
    if any(cell.is_sure for cell in compared):
        yield "* the interval excludes 0."
    for task, names in table.differing.items():
        if names:
            yield printable(
                f"{' '.join(task.lines())}: the encoders' runs also differ in {', '.join(names)}."
            )


def _as_text(grid: Grid, notes: list[str]) -> str:
    columns = zip(*grid, strict=True)
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    lines = []
    for row in grid:
        for cells in zip_longest(*row, fillvalue=""):
            padded = (f"{text:<{width}}" for text, width in zip(cells, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        lines.append("")
    return "\n".join(lines + notes)


def _as_markdown(grid: Grid, notes: list[str]) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)

    head, *rows = (["<br>".join(map(escaped, cell)) for cell in row] for row in grid)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, *(f"\n{escaped(note)}" for note in notes)])


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip
LATEX_LINE = r" \\ "


def _as_latex(grid: Grid, notes: list[str]) -> str:
    r"""Return a tabular that needs no package; a cell of several lines is a \shortstack."""

    def escaped(text: str) -> str:
        text = "".join(LATEX.get(letter, letter) for letter in text)
        return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)

    def stacked(cell: list[str]) -> str:
        lines = [escaped(line) for line in cell]
        return lines[0] if len(lines) == 1 else rf"\shortstack[l]{{{LATEX_LINE.join(lines)}}}"

    rows = [" & ".join(map(stacked, row)) + r" \\ \hline" for row in grid]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(grid[0])}}}",
            r"\hline",
            *rows,
            r"\end{tabular}",
            *(rf"\par {{\footnotesize {escaped(note)}}}" for note in notes),
        ]
    )


STYLES = {"text": _as_text, "markdown": _as_markdown, "latex": _as_latex}
