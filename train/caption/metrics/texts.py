"""CIDEr-D of captions as texts, whatever the tokens that they were written with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from .cider import CiderD
from .references import count_references, document_frequencies

END = 0  # the first word is 1


class TextCider:
    """Scores captions of images by the words of their references, with their own frequencies.

    The numbers are those of pycocoevalcap's CIDEr on the same words. With `end_is_word`, for
    rewards, the end of a caption is a word, so that one that was cut off lacks it.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, end_is_word: bool) -> None:
        """Count the references of each image; words have one space between two."""
        words = dict.fromkeys(word for own in references for text in own for word in text.split())
        self._numbers = {word: number for number, word in enumerate(words, start=END + 1)}
        counted = count_references(
            [
                [[self._numbers[word] for word in text.split()] for text in own]
                for own in references
            ],
            end=END,
            end_is_word=end_is_word,
        )
        self._cider = CiderD(counted, document_frequencies(counted))

    def scores(
        self,
        captions: Sequence[str],
        images: Sequence[int] | Int[np.ndarray, " caption"],
        *,
        ended: Sequence[bool],
    ) -> Float64[np.ndarray, " caption"]:
        """Return the CIDEr-D, 0 to 10, of each caption as one of its image.

        `images` are positions in the references; `ended` says which captions have their end.
        """
        strangers: dict[str, int] = {}  # words of no reference
        first = END + 1 + len(self._numbers)

        def number(word: str) -> int:
            known = self._numbers.get(word)
            return strangers.setdefault(word, first + len(strangers)) if known is None else known

        tokens = [
            [*map(number, caption.split()), *([END] if whole else [])]
            for caption, whole in zip(captions, ended, strict=True)
        ]
        return self._cider.scores(tokens, images)
