"""Captions beside the images of a store that keeps CLIP's embeddings of them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from ...base.errors import ClipfeatError
from ...base.text import is_unicode
from ...featstore import FeatureStore
from ..grounded.images import any_candidates, find_images, require_different
from .metrics.clipscore import clip_metrics
from .metrics.results import Captions, References

# What stands before each caption and reference: Hessel et al. 2021, CLIPScore, section 3.
PROMPT = "A photo depicts "

# Texts to their vectors, in the space of a store's pooled ones.
Embed = Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]


def clip_scores(
    store: FeatureStore,
    images: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    embed: Embed,
    *,
    skipped: int = 0,
) -> dict[str, float]:
    """Return CLIPScore, RefCLIPScore and retrieval of one caption for each of a store's images.

    `skipped` images of the split have no features. Raises ClipfeatError for a text that is none
    and for embeddings that are no numbers.
    """
    said = [PROMPT + text for text in captions]
    wanted = [[PROMPT + text for text in own] for own in references]
    # Each text once: those that two images share are then the same to the last bit.
    distinct = list(dict.fromkeys([*said, *(text for own in wanted for text in own)]))
    broken = next((text for text in distinct if not is_unicode(text)), None)
    if broken is not None:
        raise ClipfeatError(f"a caption holds half a surrogate pair: {broken!r:.80}; mend it")
    pooled = store.pooled(images)
    finite = np.isfinite(pooled).all(axis=1)
    if not finite.all():
        bad = images[int(np.argmin(finite))]
        raise ClipfeatError(
            f"{store.path}: the embedding of {bad!r:.60} is not finite; extract it again"
        )
    vectors = embed(distinct)
    row = {text: number for number, text in enumerate(distinct)}
    return clip_metrics(
        pooled.astype(np.float32),
        vectors[[row[text] for text in said]],
        [vectors[[row[text] for text in own]] for own in wanted],
        skipped=skipped,
    )


def score_results(
    store: FeatureStore, results: Captions, references: References, embed: Embed
) -> dict[str, float]:
    """Return the scores of `clip_scores` for a file of captions, of images that go by their ids.

    Raises ClipfeatError, as that does, and for images that the store does not have.
    """
    names = [any_candidates(image) for image in results]
    found = find_images(names, store, texts="captions of the results are", skip_missing=None)
    require_different(list(results), found, of="the results")
    images = [image for image in found if image is not None]
    own = [references[image] for image in results]
    return clip_scores(store, images, list(results.values()), own, embed)
