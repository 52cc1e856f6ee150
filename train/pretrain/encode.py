"""From a gathered corpus to numbers: its images in a store, its texts as word pieces."""

from collections.abc import Container, Sequence

import numpy as np
from jaxtyping import Int

from ...base.errors import ClipfeatError
from ..grounded.images import find_images
from ..texts.pieces import WordPieces
from ..texts.unknown import require_known
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
    ClipfeatError where more lack them, or all, and as `require_known` does.
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
    texts = list(corpus.texts)
    tokens = words.encode(texts, max_tokens=max_tokens)
    require_known(words.known(tokens), texts, of=f"corpus {name!r}", what="different sentences")
    return Sentences(
        image_ids=tuple(numbers),
        image_of_sentence=np.array(images),
        tokens=tokens,
        text_of_sentence=np.asarray(corpus.text_of_sentence)[kept],
        meaning_of_text=_meanings(tokens, words),
        answers=select_answers(corpus, answers, kept),
    )


def _meanings(tokens: Int[np.ndarray, "text token"], words: WordPieces) -> Int[np.ndarray, " text"]:
    """Return a number for each text, equal for those that differ in nothing but punctuation.

    What is not in their tokens, as upper case, makes no difference either.
    """
    said = np.where(words.of_words[tokens], tokens, 0)
    to_front = np.argsort(said == 0, axis=1, kind="stable")
    _, meaning = np.unique(np.take_along_axis(said, to_front, 1), axis=0, return_inverse=True)
    return meaning.reshape(-1)
