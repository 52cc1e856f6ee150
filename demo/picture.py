"""The demo's picture: scenes, their grids as colours, questions, answers and attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

INK, RIGHT, WRONG = "#222222", "#1a7f37", "#b42318"


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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = 2 + max(len(scene.asked) for scene in scenes)
    figure, axes = pyplot.subplots(
        rows, len(scenes), figsize=(2.9 * len(scenes), 3.05 * rows), squeeze=False
    )
    for column, (scene, colors) in enumerate(
        zip(scenes, grid_colors([s.grid for s in scenes]), strict=True)
    ):
        picture = np.asarray(Image.open(scene.image))
        axes[0, column].imshow(picture)
        axes[1, column].imshow(colors, aspect=_aspect(picture, colors))
        for row, asked in enumerate(scene.asked, start=2):
            _draw_attention(axes[row, column], picture, asked)
    axes[0, 0].set_ylabel("scene", fontsize=11, color=INK)
    axes[1, 0].set_ylabel("its grid of features", fontsize=11, color=INK)
    for row in range(2, rows):
        axes[row, 0].set_ylabel("attention", fontsize=11, color=INK)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    pyplot.close(figure)


def _draw_attention(axis: Any, picture: np.ndarray, asked: Asked) -> None:
    """Draw the scene lit where the model looks, under the question and its answer."""
    height, width = picture.shape[:2]
    light = asked.attention / asked.attention.max()
    light = Image.fromarray((255 * light).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    lit = picture * (0.18 + 0.82 * np.asarray(light)[..., None] / 255)
    axis.imshow(lit.astype(np.uint8))
    right = asked.answer == asked.truth
    verdict = asked.answer if right else f"{asked.answer} (it is {asked.truth})"
    axis.set_title(asked.question, fontsize=9.5, color=INK, pad=16)
    axis.text(
        0.5, 1.015, verdict, transform=axis.transAxes, ha="center", va="bottom",
        fontsize=10, fontweight="bold", color=RIGHT if right else WRONG,
    )  # fmt: skip


def grid_colors(grids: list[np.ndarray]) -> list[np.ndarray]:
    """Return each grid (row, col, dim) as colours (row, col, 3) in 0...1.

    The three colours are the first three principal components of all cells shown, each
    stretched over its range from the 2nd to the 98th percentile.
    """
    cells = np.concatenate([g.reshape(-1, g.shape[-1]) for g in grids]).astype(np.float32)
    mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-6
    _, _, axes = np.linalg.svd((cells - mean) / scale, full_matrices=False)
    low, high = np.percentile((cells - mean) / scale @ axes[:3].T, [2, 98], axis=0)
    return [
        (((g.astype(np.float32) - mean) / scale @ axes[:3].T - low) / (high - low)).clip(0, 1)
        for g in grids
    ]


def _aspect(picture: np.ndarray, colors: np.ndarray) -> float:
    """Return the height of a cell over its width, so that the grid has the picture's shape."""
    return (picture.shape[0] / colors.shape[0]) / (picture.shape[1] / colors.shape[1])
