"""CLIPScore, RefCLIPScore and retrieval, from embeddings of images, captions and references.

Hessel et al. 2021, CLIPScore, section 3.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

WEIGHT = 2.5  # scales cosines, which are hardly ever above 0.4, to about 0 to 1
AT_RANKS = (1, 5, 10)
TIE = 1e-6  # cosines that differ by less are equal: float32 is not more precise
AT_A_TIME = 1024  # rows of similarities; all of a large split would not fit into memory

Vectors = Float[np.ndarray, "row dim"]  # of any norm
ImageReferences = Float[np.ndarray, "_ dim"]  # of one image, as many as it has
PerImage = Float64[np.ndarray, " image"]


def clip_metrics(
    images: Vectors, captions: Vectors, references: Sequence[ImageReferences], *, skipped: int = 0
) -> dict[str, float]:
    """Return all scores of a split; rows of `images` and `captions` belong together.

    `CLIPScore` is 0 to 2.5, `RefCLIPScore` 0 to 10/7. `image_R@k` is the share, 0 to 1, of
    captions whose image is among the k nearest, `text_R@k` that of images whose caption is;
    `image_median_rank` and `text_median_rank` count from 1. `skipped` images, which have no
    vectors, score 0 and are never found: they have the last rank.
    """
    images, captions = normalized(images), normalized(captions)
    scores = clip_scores(images, captions)
    with_references = ref_clip_scores(scores, captions, references)
    total = len(images) + skipped
    return {
        "CLIPScore": float(scores.sum()) / total,
        "RefCLIPScore": float(with_references.sum()) / total,
        **_retrieval("image", own_ranks(captions, images), skipped),
        **_retrieval("text", own_ranks(images, captions), skipped),
    }


def clip_scores(images: Vectors, captions: Vectors) -> PerImage:
    """Return the CLIPScore of each caption: 2.5 * max(cos(caption, image), 0).

    Vectors have norm 1.
    """
    cosines = np.einsum("ij,ij->i", images, captions, dtype=np.float64)
    return WEIGHT * np.maximum(cosines, 0)


def ref_clip_scores(
    scores: PerImage, captions: Vectors, references: Sequence[ImageReferences]
) -> PerImage:
    """Return the RefCLIPScore of each caption, given its CLIPScore.

    It is the harmonic mean of the CLIPScore, including its weight of 2.5, and of the cosine to the
    nearest reference, at least 0.
    """
    nearest = np.array(
        [
            (normalized(of_image) @ caption.astype(np.float64)).max()
            for caption, of_image in zip(captions, references, strict=True)
        ]
    )
    nearest = np.maximum(nearest, 0)
    total = scores + nearest
    return np.where(total > 0, 2 * scores * nearest / np.where(total > 0, total, 1), 0.0)


def own_ranks(queries: Vectors, items: Vectors) -> Int[np.ndarray, " query"]:
    """Return the rank, from 1, at which each query finds the item of its own row, by cosine.

    Vectors have norm 1. An item that is as near as the own one ranks before it.
    """
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), AT_A_TIME):
        rows = np.arange(start, min(start + AT_A_TIME, len(queries)))
        cosines = queries[rows] @ items.T
        to_own = cosines[rows - start, rows]
        ranks[rows] = (cosines >= to_own[:, None] - TIE).sum(axis=1)
    return ranks


def normalized(vectors: Vectors) -> Float64[np.ndarray, "row dim"]:
    """Return vectors of norm 1; zeros stay zeros."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1)


def _retrieval(of: str, ranks: Int[np.ndarray, " query"], skipped: int) -> dict[str, Any]:
    total = len(ranks) + skipped
    recalls = {f"{of}_R@{k}": int((ranks <= k).sum()) / total for k in AT_RANKS}
    return {**recalls, f"{of}_median_rank": float(np.median([*ranks, *[total] * skipped]))}
