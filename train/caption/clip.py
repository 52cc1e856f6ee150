"""Captions beside the images of a store that keeps CLIP's embeddings of them."""

from collections.abc import Callable, Container, Sequence

import numpy as np
from jaxtyping import Float32

from ...base.errors import ClipfeatError
from ...base.text import is_unicode
from ...featstore import FeatureStore
from ..ve.data import image_candidates
from ..vqa.datasets.vqa2 import IMAGES, coco_candidates
from .metrics.clipscore import clip_metrics

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


def find_stored(images: Sequence[str], store: Container[str]) -> list[str]:
    """Return the store's ids of images that go by their id in a file of results.

    Raises ClipfeatError that counts and names the images that the store does not have.
    """
    found = [next((name for name in _candidates(image) if name in store), None) for image in images]
    missing = [image for image, stored in zip(images, found, strict=True) if stored is None]
    if missing:
        raise ClipfeatError(
            f"{len(missing)} of {len(images)} images of the results have no features, such as "
            f"{' or '.join(map(repr, _candidates(missing[0])))}; extract them into the store"
        )
    return [stored for stored in found if stored is not None]


def _candidates(image: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, Flickr30k or one's own."""
    digits = image.isascii() and image.isdecimal() and len(image) <= 12  # as COCO's names have
    # "042" is another image than "42".
    coco = coco_candidates(int(image), IMAGES) if digits and str(int(image)) == image else ()
    return tuple(dict.fromkeys((*coco, *image_candidates(image))))
