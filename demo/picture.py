"""The demo's picture: scenes, their grids as colours, questions, answers and attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..train.pictures.attention import grid_colors, read_image, show, show_lit
from ..train.pictures.canvas import GREEN, INK, bare, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = GREEN, "#b42318"


@dataclass(frozen=True)
class Asked:
    """One question with the model's answer."""

    question: str
    answer: str
    truth: str
    attention: np.ndarray  # (row, col), sums to 1


@dataclass(frozen=True)
class Shown:
    """One scene of the picture."""

    image: Path
    grid: np.ndarray  # (row, col, dim)
    asked: tuple[Asked, ...]


def draw_picture(scenes: list[Shown], out: Path) -> None:
    """Write the picture as a PNG: a column for each scene."""
    rows = 2 + max(len(scene.asked) for scene in scenes)
    figure = new_figure(2.9 * len(scenes), 3.05 * rows)
    axes = figure.subplots(rows, len(scenes), squeeze=False)
    for axis in axes.flat:
        bare(axis)
    all_colors = grid_colors([scene.grid for scene in scenes])
    for column, (scene, colors) in enumerate(zip(scenes, all_colors, strict=True)):
        picture = read_image(scene.image)
        show(axes[0, column], picture)
        axes[1, column].imshow(colors, aspect=_aspect(picture, colors))
        for row, asked in enumerate(scene.asked, start=2):
            _draw_asked(axes[row, column], picture, asked)
    names = ("scene", "its grid of features", *["attention"] * (rows - 2))
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=11, color=INK)
    save(figure, out, dpi=80)


def _draw_asked(axis: "Axes", picture: np.ndarray, asked: Asked) -> None:
    """Draw the scene lit where the model looks, under the question and its answer."""
    show_lit(axis, picture, asked.attention)
    right = asked.answer == asked.truth
    verdict = asked.answer if right else f"{asked.answer} (it is {asked.truth})"
    axis.set_title(asked.question, fontsize=9.5, color=INK, pad=16)
    axis.text(
        0.5, 1.015, verdict, transform=axis.transAxes, ha="center", va="bottom",
        fontsize=10, fontweight="bold", color=RIGHT if right else WRONG,
    )  # fmt: skip


def _aspect(picture: np.ndarray, colors: np.ndarray) -> float:
    """Return the height of a cell over its width, so that the grid has the picture's shape."""
    return (picture.shape[0] / colors.shape[0]) / (picture.shape[1] / colors.shape[1])
