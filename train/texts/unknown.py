"""Texts of which a model can read nothing: a few are told of, most are an error."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from ...base.errors import ClipfeatError
from ...base.text import say


def require_known(
    known: Bool[np.ndarray, " text"], texts: Sequence[str], *, of: str, what: str
) -> None:
    """Say on stderr how many texts have no word of the vocabulary; `known` are those with one.

    `of` and `what` say in errors what they are, as "split 'val'" and "questions". Raises
    ClipfeatError where most have none: training and scoring would not notice.
    """
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return
    told = f"{of}: {len(unknown)} of {len(known)} {what} have no word of the vocabulary"
    if 2 * len(unknown) > len(known):
        raise ClipfeatError(
            f"{told}, such as {texts[int(unknown[0])]!r:.60}; it has the words that come more "
            "than once in the training texts: are these in another language, or without words?",
            code="E-TEXT-UNKNOWN",
        )
    say(told)
