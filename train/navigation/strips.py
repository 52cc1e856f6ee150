"""Strips of pictures: the views through which an agent left the viewpoints of its walk."""

import io
import logging
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ...base.errors import ClipfeatError, UsageError, reason_of
from ...base.text import counted
from ...manifests.contents import disk_path, escaped, unescaped
from ...manifests.headers import read_sizes
from ...manifests.views import view_files
from ..attention_maps import read_image
from .candidates import Candidates
from .graphs import Scan
from .views import HEADINGS, STEP, snapped, wrapped

logger = logging.getLogger(__name__)

SHOWN = 12  # pictures of a walk: its first ones, and where it ends
SIDE = 128  # pixels, at most, of a picture's sides
QUALITY = 75  # of its JPEG, which is then a few kilobytes
MAX_PIXELS = 1 << 24  # of a file that is read
AHEAD = math.radians(0.5)  # smaller turns are none

View = tuple[str, str, int]  # scan, viewpoint, number


class Leg(NamedTuple):
    """A move of a walk, or its end."""

    viewpoint: str
    view: int  # that the agent looked through when it left, or at the end
    text: str  # what it did


def legs_of(scan: Scan, candidates: Candidates, walk: Sequence[int], heading: float) -> list[Leg]:
    """Return the moves of a walk and its end; `heading` is that of its start, in radians.

    A turn is the difference between the direction of a move and the heading before it, which is that
    of the view through which the agent came.
    """
    rows = np.array([_row(candidates, here, there) for here, there in pairwise(walk)], np.int64)
    views = np.concatenate([snapped(np.array([heading])), candidates.views[rows]])
    turns = wrapped(candidates.headings[rows] - views[:-1] % HEADINGS * STEP)
    moves = zip(
        views[1:].tolist(), turns.tolist(), candidates.distances[rows].tolist(), strict=True
    )
    names = [scan.viewpoints[number] for number in walk]
    return [
        *(
            Leg(name, view, f"{number}. {_direction(turn, view)}, {metres:.1f} m")
            for number, (name, (view, turn, metres)) in enumerate(
                zip(names, moves, strict=False), 1
            )
        ),
        Leg(names[-1], int(views[-1]), "stop"),
    ]


def _row(candidates: Candidates, here: int, there: int) -> int:
    """Return the row of the candidate that leads from one viewpoint to another."""
    first, last = candidates.starts[here : here + 2]
    return int(first + (candidates.viewpoints[first:last] == there).argmax())


def _direction(turn: float, view: int) -> str:
    """Return a turn in words; `view` is the one that is nearest to the move."""
    side = "right" if turn > 0 else "left"
    way = "ahead" if abs(turn) < AHEAD else f"{math.degrees(abs(turn)):.0f}° {side}"
    level = ("down", "", "up")[view // HEADINGS]
    return f"{way} {level}".rstrip()


def shortened(legs: Sequence[Leg]) -> list[Leg]:
    """Return at most SHOWN legs, with the last one."""
    return list(legs) if len(legs) <= SHOWN else [*legs[: SHOWN - 1], legs[-1]]


def read_pictures(folder: Path, views: Iterable[View]) -> dict[View, bytes]:
    """Return {(scan, viewpoint, view): JPEG} of the views whose picture can be read.

    `folder` has SCAN/VIEWPOINT with 36 image files each, as `clipfeat manifest --views` reads it.
    Pictures are reduced to SIDE pixels. How many views have none is logged with a reason. Raises
    UsageError (E-OPTION-FOLDER) where none has one.
    """
    wanted = list(dict.fromkeys(views))
    files: dict[View, str] = {}
    problems: dict[View, str] = {}
    for view in wanted:
        try:
            files[view] = _file(folder, *view)
        except (ClipfeatError, OSError) as error:
            problems[view] = f"{view[0]}/{view[1]}: {reason_of(error)}"
    sizes = read_sizes(str(folder), list(files.values()))
    pictures: dict[View, bytes] = {}
    for (view, file), (width, height) in zip(files.items(), sizes, strict=True):
        try:
            if not 0 < width * height <= MAX_PIXELS:  # 0: the header of none of Pillow's formats
                raise UsageError(f"{file} has {width} x {height} pixels", code="E-IMAGE-READ")
            pictures[view] = _thumbnail(Path(disk_path(str(folder), unescaped(file))))
        except (ClipfeatError, OSError) as error:
            problems[view] = reason_of(error)
    if problems:
        example = next(iter(problems.values()))
        text = (
            f"{folder}: {len(problems)} of {counted(len(wanted), 'view')} have no picture, such as"
        )
        if not pictures:
            raise UsageError(
                f"--images {text} {example}; pass the folder that has SCAN/VIEWPOINT with 36 images "
                "each, or drop it",
                code="E-OPTION-FOLDER",
            )
        logger.warning(f"{text} {example}")
    return pictures


def _file(folder: Path, scan: str, viewpoint: str, view: int) -> str:
    """Return the path of a view's image below the folder, as a manifest has it."""
    if "/" in viewpoint or viewpoint in (".", ".."):  # names come from files of graphs
        raise UsageError("no folder has such a name", code="E-OPTION-FOLDER")
    return view_files(str(folder), escaped(f"{scan}/{viewpoint}"))[view]


def _thumbnail(path: Path) -> bytes:
    """Return a JPEG of an image file, reduced to SIDE pixels by means of whole pixels."""
    from matplotlib.image import imsave

    image = read_image(path)
    if image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"{path} has no colours", code="E-IMAGE-READ")
    with io.BytesIO() as file:
        imsave(file, _reduced(image), format="jpeg", pil_kwargs={"quality": QUALITY})
        return file.getvalue()


def _reduced(image: Shaped[np.ndarray, "height width 3"]) -> Shaped[np.ndarray, "_ _ 3"]:
    """Return an image of whole numbers, or of floats from 0 to 1, as uint8 of at most SIDE pixels."""
    scaled = image.astype(np.float32) * (1 if image.dtype == np.uint8 else 255)
    step = math.ceil(max(image.shape[:2]) / SIDE)
    rows, columns = np.arange(0, image.shape[0], step), np.arange(0, image.shape[1], step)
    sums = np.add.reduceat(np.add.reduceat(scaled, rows, axis=0), columns, axis=1)
    ones = np.ones(image.shape[:2], np.float32)
    counts = np.add.reduceat(np.add.reduceat(ones, rows, axis=0), columns, axis=1)
    return (sums / counts[..., None]).round().clip(0, 255).astype(np.uint8)
