"""Image ids: what a store may call an image of a data set, and which of these ids it has.

And the checks of files and ids that all readers of data sets share.
"""

import logging
import os
import re
from collections.abc import Collection, Container, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from ...base.errors import ClipfeatError, UsageError
from ...base.text import IMAGE_SUFFIXES, counted, suffix

logger = logging.getLogger(__name__)

COCO, VISUAL_GENOME = "COCO", "Visual Genome"  # collections of images, each with its own numbers
COCO_PARTS = ("test2014", "test2015", "train2014", "val2014")  # as the image files name them
COCO_SPLITS = {"train": "train2014", "val": "val2014"}  # {split: its part}, with annotations
COCO_NAME = re.compile(r"COCO_([a-z]+[0-9]{4})_([0-9]{12})")  # its part, its number
# With all of its zeros or with none: "042" is another image than "42".
COCO_NUMBER = re.compile(r"0|[1-9][0-9]{0,11}|[0-9]{12}")
BARE_NUMBER = re.compile(r"0|[1-9][0-9]{0,10}")  # which Visual Genome uses, too
JPEG = ".jpg"


@runtime_checkable
class StoredIds(Protocol):
    """The ids that have a record, such as those of a FeatureStore."""

    def __contains__(self, image_id: str, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


def without_suffix(name: str) -> str:
    """Return the name or path of an image file as manifests have it: without the file's suffix.

    >>> without_suffix("b/1.png"), without_suffix("2.JPEG"), without_suffix("v1.2")
    ('b/1', '2', 'v1.2')
    """
    return os.path.splitext(name)[0] if suffix(name) in IMAGE_SUFFIXES else name  # noqa: PTH122


def coco_number(image_id: int | str) -> int | None:
    """Return the COCO number that an id or a file name stands for; None for other ids.

    >>> coco_number("COCO_val2014_000000000042.jpg"), coco_number("000000000042"), coco_number("x")
    (42, 42, None)
    """
    name = without_suffix(str(image_id))
    if match := COCO_NAME.fullmatch(name):
        return int(match[2])
    return int(name) if COCO_NUMBER.fullmatch(name) else None


@lru_cache(maxsize=1 << 10)  # the texts of an image follow each other and share one tuple
def coco_candidates(image_id: int | str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, the least ambiguous first.

    An id is a number, also as text, or the name of a file, which says the part of COCO. Any other
    id is the only one that the store may use.

    >>> coco_candidates(42, ("val2014",))
    ('COCO_val2014_000000000042', '000000000042', '42')
    """
    number = coco_number(image_id)
    if number is None:
        return (str(image_id),)
    if match := COCO_NAME.fullmatch(without_suffix(str(image_id))):
        parts = (match[1],)
    digits = f"{number:012}"
    return (*(f"COCO_{part}_{digits}" for part in parts), digits, str(number))


def vg_candidates(image_id: int | str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of Visual Genome, or of GQA.

    >>> vg_candidates(2354786)
    ('VG_2354786', '2354786')
    """
    return (f"VG_{image_id}", str(image_id))


def file_candidates(image_id: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image known by its file, this id first.

    A file of COCO's may be known by its number, too.

    >>> file_candidates("2407214681"), file_candidates("a/b.png")
    (('2407214681', '2407214681.jpg'), ('a/b.png', 'a/b'))
    >>> file_candidates("COCO_val2014_000000000042.jpg")[2:]
    ('000000000042', '42')
    """
    names = (image_id, _other_spelling(image_id))
    is_coco = COCO_NAME.fullmatch(without_suffix(image_id)) is not None
    return (*names, *coco_candidates(image_id, ())[1:]) if is_coco else names


def lxmert_candidates(image_id: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of LXMERT's files or of a table.

    Images of COCO are named by their files there, and those of Visual Genome by their numbers.

    >>> lxmert_candidates("COCO_val2014_000000393267")
    ('COCO_val2014_000000393267', '000000393267', '393267')
    >>> lxmert_candidates("2354786"), lxmert_candidates("b/7.jpg")
    (('VG_2354786', '2354786'), ('b/7.jpg', 'b/7'))
    """
    if COCO_NAME.fullmatch(without_suffix(image_id)):
        return coco_candidates(image_id, ())
    if image_id.isascii() and image_id.isdigit():
        return vg_candidates(image_id)
    return file_candidates(image_id)


def any_candidates(image_id: int | str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, of Flickr30k or of a user."""
    coco = coco_candidates(image_id, COCO_PARTS)
    return tuple(dict.fromkeys((*coco, *file_candidates(str(image_id)))))


def find_images(
    candidates: Sequence[tuple[str, ...]], store: StoredIds, *, texts: str, skip_missing: int
) -> list[str | None]:
    """Return the store's id of each text's image, None where the image has no features.

    `candidates` are the ids that an image may have, with or without the suffix of its file; `texts`
    says in errors what the texts are, such as "questions of split 'val' ask". Raises ClipfeatError
    (E-IMAGES-MISSING) that counts and names the images without features where more than
    `skip_missing` texts are about them, and (E-IMAGES-NONE) where all texts are.
    """
    ids, problem = _look_up(candidates, store, texts)
    if not problem:
        return ids
    skipped = ids.count(None)
    if skipped > skip_missing:
        raise ClipfeatError(
            f"{problem}; extract these images into the store, or pass --skip-missing {skipped}",
            code="E-IMAGES-MISSING",
        )
    if skipped == len(ids):
        raise ClipfeatError(
            f"{problem}: no text is left; extract these images, or pass the store that has them",
            code="E-IMAGES-NONE",
        )
    logger.info(f"{problem}; skipped")
    return ids


def require_images(
    candidates: Sequence[tuple[str, ...]], store: StoredIds, *, texts: str
) -> list[str]:
    """Return the store's id of each text's image; raises as `find_images` does for any without."""
    ids, problem = _look_up(candidates, store, texts)
    if problem:
        raise ClipfeatError(
            f"{problem}; extract these images into the store", code="E-IMAGES-MISSING"
        )
    return [image_id for image_id in ids if image_id is not None]


def _look_up(
    candidates: Sequence[tuple[str, ...]], store: StoredIds, texts: str
) -> tuple[list[str | None], str]:
    """Return the store's id of each text's image, and which images are missing, "" for none."""
    stored_of = {names: _stored(names, store) for names in dict.fromkeys(candidates)}
    numbered = [names for names, stored in stored_of.items() if _is_by_number(names, stored)]
    if numbered and any(COCO_NAME.fullmatch(without_suffix(image_id)) for image_id in store):
        # Such a store names COCO's images by their files: its bare numbers are of other images,
        # such as those of Visual Genome.
        stored_of.update(dict.fromkeys(numbered))
    ids = [stored_of[names] for names in candidates]
    missing = [names for names, stored in stored_of.items() if stored is None]
    if not missing:
        return ids, ""
    examples = ", ".join(" or ".join(names[:2]) for names in missing[:3])
    return ids, (
        f"{ids.count(None)} of {len(ids)} {texts} about {counted(len(missing), 'image')} without "
        f"features, such as {examples}"
    )


def _is_by_number(names: tuple[str, ...], stored: str | None) -> bool:
    """Return whether an image of COCO was found by its number without the zeros before it."""
    is_coco = COCO_NAME.fullmatch(without_suffix(names[0])) is not None
    return (
        is_coco and stored is not None and BARE_NUMBER.fullmatch(without_suffix(stored)) is not None
    )


def _stored(names: tuple[str, ...], store: StoredIds) -> str | None:
    """Return the first of the names that the store has, in either spelling."""
    spellings = (spelling for name in names for spelling in (name, _other_spelling(name)))
    return next((name for name in spellings if name in store), None)


def _other_spelling(name: str) -> str:
    """Return a name without the suffix of an image file, or with ".jpg" where it has none."""
    bare = without_suffix(name)
    return bare if bare != name else name + JPEG


def require_different(
    image_ids: Sequence[int | str], stored: Sequence[str | None], *, of: str
) -> None:
    """Raise ClipfeatError (E-IMAGES-SAME) where two images would have the features of one.

    `stored` are the store's ids of the images, None for those without features; `of` says in
    errors whose images they are.
    """
    owners: dict[str, int | str] = {}
    for image_id, name in zip(image_ids, stored, strict=True):
        if name is None:
            continue
        owner = owners.setdefault(name, image_id)
        if owner != image_id:
            raise ClipfeatError(
                f"{of}: image {owner!r:.60} and image {image_id!r:.60} would both be {name!r:.60} "
                "of the store; extract them under different ids, as clipfeat manifest --ids path "
                "gives them",
                code="E-IMAGES-SAME",
            )


def require_folder(data: Path, of: str) -> None:
    """Raise UsageError (E-DATA-FOLDER) unless `data` is a folder; `of` says of which files."""
    if not data.is_dir():
        raise UsageError(
            f"{data} is not a folder; --data takes the folder of {of}", code="E-DATA-FOLDER"
        )


def find_file(data: Path, names: Sequence[str], of: str) -> Path:
    """Return the first of the files `names` that the folder `data` has.

    `of` says in errors what they are, such as "the pairs of split 'dev'". Raises UsageError
    (E-DATA-FILE) where there is none of them.
    """
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UsageError(
        f"{data} has no {' or '.join(names)}, {of}; pass the folder that has it",
        code="E-DATA-FILE",
    )


def require_unique(new_id: object, known: Container[object], name: str, place: object) -> None:
    """Raise ClipfeatError (E-DATA-TWICE) where an id of a file is already among the `known` ones.

    `name` is what the file calls the id, such as "question_id".
    """
    if new_id in known:
        raise ClipfeatError(
            f"{place}: {name} {new_id!r:.60} occurs twice; keep one", code="E-DATA-TWICE"
        )


def require_ids(
    path: Path, predicted: Collection[int | str], wanted: Collection[int | str], *, of: str
) -> None:
    """Raise ClipfeatError (E-PREDICTIONS-IDS) that counts and names the ids of one side only.

    `path` is the file of predictions; `of` says in the plural what has the ids: "questions".
    """
    missing, unknown = set(wanted) - set(predicted), set(predicted) - set(wanted)
    problems = [
        f"{len(ids)} {problem}, such as {', '.join(map(repr, sorted(ids, key=str)[:3]))}"
        for problem, ids in (
            (f"{of} have no prediction", missing),
            (f"predictions are of no {of.removesuffix('s')}", unknown),
        )
        if ids
    ]
    if problems:
        raise ClipfeatError(
            f"{path}: {'; '.join(problems)}; score a split with its own predictions",
            code="E-PREDICTIONS-IDS",
        )
