"""From the pairs of a split to examples: its hypotheses as tokens, its images in a store."""

from collections.abc import Container

from ...base.errors import ClipfeatError
from ..grounded.examples import Examples, Targets
from ..grounded.images import find_images
from ..grounded.train import make_examples
from ..texts.pieces import WordPieces
from ..texts.unknown import require_known
from ..texts.words import Words
from .data import LABELS, VeSplit


def encode(
    split: VeSplit,
    words: Words | WordPieces,
    store: Container[str],
    *,
    max_tokens: int,
    skip_missing: int,
) -> Examples:
    """Return the split's pairs as numbers; the premise is the image, its caption is not read.

    Pairs whose images have no features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    ids = find_images(
        [pair.candidates for pair in split.pairs],
        store,
        texts=f"hypotheses of split {split.name!r} are",
        skip_missing=skip_missing,
    )
    kept = [(pair, stored) for pair, stored in zip(split.pairs, ids, strict=True) if stored]
    if not kept:
        raise ClipfeatError(f"split {split.name!r}: none of its images has features in the store")
    texts = [pair.hypothesis for pair, _ in kept]
    examples = make_examples(
        [pair.pair_id for pair, _ in kept],
        [stored for _, stored in kept],
        texts,
        Targets.of([{LABELS.index(pair.label): 1.0} for pair, _ in kept]),
        words=words,
        max_tokens=max_tokens,
    )
    known = words.known(examples.tokens)
    require_known(known, texts, of=f"split {split.name!r}", what="hypotheses")
    return examples
