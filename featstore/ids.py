"""Image ids as people have them: texts, or the whole numbers of a data set's annotations."""

import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

ImageId = str | int | np.integer[Any]

# Names of files come in either: macOS and some archives part letters from their accents.
NormalForm = Literal["NFC", "NFD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFD")


def id_text(image_id: object) -> str:
    """Return the id that a text or a whole number names; a number is its decimal text.

    Raises TypeError for anything else.
    """
    if isinstance(image_id, str):
        return image_id
    if isinstance(image_id, int | np.integer) and not isinstance(image_id, bool):
        return str(int(image_id))
    raise TypeError(
        f"an image id is a text or a whole number; got {image_id!r:.80} ({type(image_id).__name__})"
    )


def id_texts(ids: Iterable[ImageId]) -> list[str]:
    """Return the ids that a list, a tuple or an array of texts or whole numbers names.

    Raises TypeError for one that is neither, and for a single text, which is no list of ids
    though Python can iterate over its letters.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(
            f"expected a list of image ids; got {ids!r:.80} ({type(ids).__name__}); "
            f"for a single id pass [id]"
        )
    items = ids.tolist() if isinstance(ids, np.ndarray) and ids.ndim else ids
    return [item if type(item) is str else id_text(item) for item in items]


def in_normal_form(form: NormalForm, image_id: str) -> str:
    """Return the id in one of Unicode's normal forms."""
    return unicodedata.normalize(form, image_id)


def quoted(image_id: str, example: str) -> tuple[str, str]:
    """Return two ids as an error shows them: told apart even if they look the same.

    >>> quoted("b", "a"), quoted("\\u00e9", "e\\u0301")
    (("'b'", "'a'"), ("'\\\\xe9'", "'e\\\\u0301'"))
    """
    alike = unicodedata.normalize("NFC", image_id) == unicodedata.normalize("NFC", example)
    show = ascii if alike else repr
    return show(image_id)[:100], show(example)[:100]
