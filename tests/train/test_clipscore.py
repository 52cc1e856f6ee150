"""CLIPScore, RefCLIPScore and retrieval, worked by hand from vectors of two channels."""

import numpy as np
import pytest

from clipfeat.train.metrics.clipscore import clip_metrics, own_ranks

# Unit vectors: cosines of what lies 0, 90 and 180 degrees apart, and of (3, 4) / 5.
EAST, NORTH, WEST, NORTH_EAST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.6, 0.8)


def rows(*vectors: tuple[float, float]) -> np.ndarray:
    return np.array(vectors, dtype=np.float32)


def test_scores_are_those_of_the_paper() -> None:
    """Cosines 1, 0.6 and -1 to the image, of which the last counts as 0; any length of vectors."""
    images, captions = rows(EAST, EAST, EAST), 7 * rows(EAST, NORTH_EAST, WEST)
    references = [rows(NORTH, EAST), rows(NORTH), rows(WEST)]
    found = clip_metrics(images, captions, references)
    assert found["CLIPScore"] == pytest.approx(2.5 * (1 + 0.6 + 0) / 3)
    # Harmonic means of 2.5 and 1, of 1.5 and 0.8, of 0 and 1.
    expected = (2 * 2.5 * 1 / 3.5 + 2 * 1.5 * 0.8 / 2.3 + 0) / 3
    assert found["RefCLIPScore"] == pytest.approx(expected)


def test_retrieval_counts_ties_against_the_caption() -> None:
    """The second caption is nearest to another image, the third as near to two images."""
    images = rows(EAST, NORTH, EAST)
    captions = rows(EAST, EAST, EAST)
    assert own_ranks(captions, images).tolist() == [2, 3, 2]
    assert own_ranks(images, captions).tolist() == [3, 3, 3]
    found = clip_metrics(images, captions, [captions] * 3)
    assert (found["image_R@1"], found["image_R@5"], found["image_median_rank"]) == (0, 1, 2)
    assert (found["text_R@1"], found["text_median_rank"]) == (0, 3)


def test_perfect_captions_are_found_first_and_skipped_images_never() -> None:
    vectors = rows(EAST, NORTH, WEST)
    found = clip_metrics(vectors, vectors, [vectors[n : n + 1] for n in range(3)])
    assert (found["image_R@1"], found["text_R@1"], found["text_median_rank"]) == (1, 1, 1)
    skipping = clip_metrics(vectors, vectors, [vectors[n : n + 1] for n in range(3)], skipped=1)
    assert skipping["CLIPScore"] == pytest.approx(2.5 * 3 / 4)
    assert (skipping["image_R@1"], skipping["image_R@10"]) == (0.75, 0.75)
