"""The 36 views of a viewpoint: numbers, angles, and the features of angles.

View 12 * row + k looks 30 * k degrees clockwise from north (+y) and 30 * (row - 1) degrees up, as in the
Matterport3D simulator with discretised viewing angles, and in records of the recipe `views`.
"""

import math

import numpy as np

HEADINGS = 12  # views of a row
ROWS = 3
VIEWS = HEADINGS * ROWS
STEP = math.radians(30)  # between neighbouring views, in both directions
VIEW_HEADINGS = np.tile(np.arange(HEADINGS) * STEP, ROWS)  # (view,) radians
VIEW_ELEVATIONS = (np.arange(VIEWS) // HEADINGS - 1) * STEP  # (view,) radians
CIRCLE = 2 * math.pi


def wrapped(angles: np.ndarray) -> np.ndarray:
    """Return angles in radians as differences of directions, in (-pi, pi]."""
    return math.pi - np.mod(math.pi - angles, CIRCLE)


def snapped(headings: np.ndarray, elevations: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the views that the simulator starts with, int64, for angles in radians.

    A heading goes to the nearest multiple of 30 degrees, halves up as C's `lround` has it (Python's
    `round` takes the even one). An elevation of more than 15 degrees up or down goes to the upper or
    lower row.
    """
    turns = np.mod(headings, CIRCLE) / STEP
    whole = np.floor(turns)
    k = (whole + (turns - whole >= 0.5)).astype(np.int64) % HEADINGS
    row = 1 + (elevations > STEP / 2) - (elevations < -STEP / 2)
    return row * HEADINGS + k


def angle4(headings: np.ndarray, elevations: np.ndarray) -> np.ndarray:
    """Return the features of directions: (..., 4), sin and cos of heading and of elevation.

    Published agents repeat them, 32 times for EnvDrop's 128 numbers.
    """
    headings, elevations = np.broadcast_arrays(headings, elevations)
    return np.stack(
        [np.sin(headings), np.cos(headings), np.sin(elevations), np.cos(elevations)], axis=-1
    )
