"""How far the features of an image are from others of the same image, and how far they may be."""

from dataclasses import dataclass

import numpy as np

# Relative error of a record up to which two computations are taken for the same one on different
# hardware: some three times what rounding to the precision costs (docs/backbones.md).
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Deviation:
    """How far a record is from another one of the same image."""

    image_id: str
    cosine: float  # of a cell, the least of the record
    relative_error: float  # norm of the difference over the norm of the other record
    same_bits: bool


def deviation(image_id: str, features: np.ndarray, reference: np.ndarray) -> Deviation:
    """Return how far features (row, col, dim) are from the reference of the same image."""
    if features.shape != reference.shape:
        return Deviation(image_id, 0.0, float("inf"), same_bits=False)
    a, b = (grid.astype(np.float64).reshape(-1, grid.shape[-1]) for grid in (features, reference))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.maximum(norms, 1e-300), 1.0)
    same_bits = np.array_equal(features, reference)
    return Deviation(image_id, float(cosines.min()), relative_error(a, b), same_bits)


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the norm of the difference over the norm of the reference, of arrays of one shape."""
    difference = values.astype(np.float64) - reference
    size = float(np.linalg.norm(reference.astype(np.float64)))
    return float(np.linalg.norm(difference)) / max(size, 1e-300)
