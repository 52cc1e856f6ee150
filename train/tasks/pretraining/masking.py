"""What is masked, replaced and sampled in pre-training: pure functions of random numbers.

The random numbers of an example depend on nothing but (seed, epoch, example).
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int


class RngStream(IntEnum):
    """What random numbers are for; the streams are independent."""

    TEXT = 0
    GRID = 1


def example_uniforms(
    seed: int, epoch: int, stream: RngStream, numbers: Int[np.ndarray, " example"], width: int
) -> Float64[np.ndarray, "example width"]:
    """Return `width` uniform numbers, 0 to 1, for each example (or image) that is numbered.

    Whatever batch, part of a batch or process an example is in, it has the same ones: a resumed
    run sees what it would have seen, and so does one in more parts or processes.
    """
    rows = [np.random.default_rng((seed, epoch, stream, n)).random(width) for n in numbers.tolist()]
    return np.stack(rows)


TO_MASK, TO_RANDOM = 0.8, 0.9  # of the chosen pieces: 80 % masked, 10 % random, 10 % unchanged
IGNORED = -100  # label of a piece that is not to be predicted


class MaskedWords(NamedTuple):
    """Texts of which some pieces are hidden."""

    tokens: Int[np.ndarray, "text token"]
    labels: Int[np.ndarray, "text token"]  # the masked piece to predict, else IGNORED


def mask_words(
    tokens: Int[np.ndarray, "text token"],
    uniforms: Float64[np.ndarray, "text 2*token"],
    *,
    rate: float,
    special: Int[np.ndarray, " special"],
    mask: int,
    pieces: int,
) -> MaskedWords:
    """Hide a share `rate` of the pieces (Devlin et al. 2019, section 3.1).

    Padding and the other `special` tokens are never chosen. `pieces` is the number of tokens. A
    random piece may be any of them except the first, which is padding and would not be read.
    """
    width = tokens.shape[1]
    chosen = (uniforms[:, :width] < rate) & ~np.isin(tokens, special)
    kind = uniforms[:, width:]
    random = 1 + ((kind - TO_MASK) / (TO_RANDOM - TO_MASK) * (pieces - 1)).astype(np.int64)
    hidden = np.where(chosen & (kind < TO_MASK), mask, tokens)
    hidden = np.where(chosen & (kind >= TO_MASK) & (kind < TO_RANDOM), random, hidden)
    return MaskedWords(hidden, np.where(chosen, tokens, IGNORED))


class Replaced(NamedTuple):
    """Texts of which some are about another image."""

    texts: Int[np.ndarray, " sentence"]  # numbers of texts
    matched: Bool[np.ndarray, " sentence"]  # True where the text is about the image


def replace_texts(
    texts: Int[np.ndarray, " sentence"],
    candidates: Int[np.ndarray, "sentence candidate"],
    own: Bool[np.ndarray, "sentence candidate"],
    uniforms: Float64[np.ndarray, " sentence"],
    *,
    rate: float,
) -> Replaced:
    """Replace a share `rate` of the texts by the first candidate that is not the image's own.

    If all candidates are, as in a corpus whose images share their texts, the text is kept. CLIP-ViL's
    code takes any sentence of another image, which may say the same as one of the image's own.
    """
    first = (~own).argmax(axis=1)
    replaced = (uniforms < rate) & ~own.all(axis=1)
    other = candidates[np.arange(len(texts)), first]
    return Replaced(np.where(replaced, other, texts), ~replaced)


class SampledCells(NamedTuple):
    """Some cells of each image, in their order in the grid."""

    cells: Int[np.ndarray, "image sampled"]  # numbers of cells
    mask: Bool[np.ndarray, "image sampled"]  # True for real cells


def sample_cells(
    mask: Bool[np.ndarray, "image cell"],
    uniforms: Float64[np.ndarray, "image cell"],
    count: int,
) -> SampledCells:
    """Choose `count` of the real cells of each image at random, or all if there are fewer.

    CLIP-ViL's code chooses among all cells, those of the black border included.
    """
    ranked = np.where(mask, uniforms, np.inf)
    count = min(count, mask.shape[1])
    cells = np.sort(np.argpartition(ranked, count - 1, axis=1)[:, :count], axis=1)
    return SampledCells(cells, np.take_along_axis(mask, cells, axis=1))
