"""From a gathered corpus to numbers: its images in a store, its texts as word pieces."""

from collections.abc import Container, Sequence

import numpy as np

from ...base.errors import ClipfeatError
from ..grounded.train import find_images
from ..texts.pieces import WordPieces
from .corpus.sentences import image_candidates
from .examples import Sentences
from .gather import Corpus, select_answers


def encode(
    corpus: Corpus,
    name: str,
    store: Container[str],
    *,
    words: WordPieces,
    answers: Sequence[str],
    max_tokens: int,
    skip_missing: int,
) -> Sentences:
    """Return the sentences of corpus `name` as numbers.

    Those about images without features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all.
    """
    candidates = [image_candidates(image) for image in corpus.images]
    stored = find_images(
        [candidates[image] for image in corpus.image_of_sentence],
        store,
        texts=f"sentences of corpus {name!r} are",
        skip_missing=skip_missing,
    )
    kept = np.array([image_id is not None for image_id in stored])
    if not kept.any():
        raise ClipfeatError(f"corpus {name!r}: none of its images has features in the store")
    numbers: dict[str, int] = {}
    images = [numbers.setdefault(image_id, len(numbers)) for image_id in stored if image_id]
    tokens = words.encode(corpus.texts, max_tokens=max_tokens)
    # Texts that read alike are one text: what is another image's must not read like one's own.
    tokens, text = np.unique(tokens, axis=0, return_inverse=True)
    return Sentences(
        image_ids=tuple(numbers),
        image_of_sentence=np.array(images),
        tokens=tokens,
        text_of_sentence=text.reshape(-1)[np.asarray(corpus.text_of_sentence)[kept]],
        answers=select_answers(corpus, answers, kept),
    )
