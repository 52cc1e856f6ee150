"""A sentence about an image, and what a store may call that image."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...base.csvfile import csv_rows
from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ...base.parquet import read_columns, read_schema
from ...base.text import is_unicode
from .ids import COCO_NAME, coco_candidates, file_candidates, vg_candidates, without_ending

logger = logging.getLogger(__name__)


class Sentence(NamedTuple):
    """A caption of an image, or a question about it."""

    image_id: str
    text: str
    source: str  # the data set: "mscoco", "vqa", "gqa", "visual7w", "vg", "table"
    answers: dict[str, float] | None  # {answer: score, 0 to 1}; None: no question


def image_candidates(image_id: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image, the least ambiguous first.

    >>> image_candidates("COCO_val2014_000000393267")
    ('COCO_val2014_000000393267', '000000393267', '393267')
    >>> image_candidates("2354786"), image_candidates("b/7.jpg")
    (('VG_2354786', '2354786'), ('b/7.jpg', 'b/7'))
    """
    if COCO_NAME.fullmatch(without_ending(image_id)):
        return coco_candidates(image_id, ())
    if image_id.isascii() and image_id.isdigit():
        return vg_candidates(image_id)
    return file_candidates(image_id)


def require_unicode(text: str, what: str, where: str) -> str:
    """Return `text`; ClipfeatError if it holds half a surrogate pair, which nothing can encode."""
    if is_unicode(text):
        return text
    raise ClipfeatError(f"{where}: {what} holds half a surrogate pair: {text!r:.60}; mend it")


SOURCE = "table"
IMAGE = ("image_id", "id")
CAPTION = "caption"


def captions(path: Path) -> Iterator[Sentence]:
    """Yield the caption of each row of a table, of which few rows are held at a time.

    The image's id is in column `image_id` or, where there is none, `id`; its text in `caption`.
    A TSV file has no quotes: Conceptual Captions has captions that begin with one. Raises
    ClipfeatError for a table without these columns, or with a value that is none.
    """
    read = {".parquet": _parquet, ".tsv": _tsv}.get(path.suffix, csv_rows)
    column = None
    for where, row in read(path):
        column = column or _image_column(path, row)
        image_id = str(identifier(row, column, where)).strip()
        if not image_id:
            raise ClipfeatError(f"{where}: {column} is blank; every caption needs its image")
        text = field(row, CAPTION, str, where)
        yield Sentence(
            require_unicode(image_id, column, where),
            require_unicode(text, CAPTION, where),
            SOURCE,
            None,
        )


def _image_column(path: Path, found: Collection[str]) -> str:
    """Return the name of the column that has the images' ids."""
    column = next((name for name in IMAGE if name in found), None)
    if column is None or CAPTION not in found:
        wanted = f"{' or '.join(IMAGE)}, and {CAPTION}"
        raise ClipfeatError(
            f"{path}: expected columns {wanted}; found {', '.join(map(repr, found)):.200}"
        )
    return column


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return csv_rows(path, tabs=True)


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def refuse(why: str) -> ClipfeatError:
        return ClipfeatError(f"{path}: {why}; write the columns anew")

    found = read_schema(path, refuse).names
    names = (_image_column(path, found), CAPTION)
    for name in names:
        if found.count(name) > 1:
            raise refuse(f"has two columns {name}")
    for number, row in enumerate(read_columns(path, names, refuse)):
        yield f"{path}, row {number}", dict(zip(names, row, strict=True))


ENDINGS = (".json", ".csv", ".tsv", ".parquet")


def corpus_files(data: Path, name: str) -> tuple[Path, ...]:
    """Return the files of the folder `data` that hold a corpus such as "mscoco_train+vgnococo".

    Each part is a file of LXMERT's, <part>.json, or a table of captions, <part>.csv, .tsv or
    .parquet. Raises UsageError for a part that is not there, is there twice, or is named twice.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder; --data takes the folder of the corpus files")
    files: list[Path] = []
    for part in name.split("+"):
        named = [data / f"{part}{ending}" for ending in ENDINGS]
        found = [path for path in named if path.is_file()]
        if not found:
            expected = ", ".join(path.name for path in named)
            raise UsageError(f"{data} has no part {part!r} of corpus {name!r}: expected {expected}")
        if len(found) > 1:
            both = " and ".join(path.name for path in found)
            raise UsageError(f"{data} has {both}, and part {part!r} is one file; move one away")
        if found[0] in files:
            raise UsageError(f"corpus {name!r} has part {part!r} twice; name it once")
        files.append(found[0])
    return tuple(files)


def read_sentences(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of one file; blank ones are dropped, and counted on stderr.

    Raises ClipfeatError, which names the file and the record, for a file that is in none of the
    formats, and for one without a sentence.
    """
    kept, blank = 0, 0
    for sentence in _lxmert(path) if path.suffix == ".json" else captions(path):
        if sentence.text.strip():
            kept += 1
            yield sentence
        else:
            blank += 1
    if blank:
        logger.info(f"{path}: {blank:,} blank sentences are dropped")
    if not kept:
        raise ClipfeatError(f"{path}: holds no sentence; leave it out")


def _lxmert(path: Path) -> Iterator[Sentence]:
    images = read_json(path)
    if not isinstance(images, list):
        raise ClipfeatError(f"{path}: expected a list of images; got {images!r:.60}")
    seen: set[str] = set()
    for number, image in enumerate(images):
        where = f"{path}: [{number}]"
        image_id = require_unicode(str(identifier(image, "img_id", where)), "img_id", where)
        if image_id in seen:
            raise ClipfeatError(f"{where}: img_id {image_id!r} is there twice; join its sentences")
        seen.add(image_id)
        yield from _of_image(image_id, image, f"{where} {image_id!r}")


def _of_image(image_id: str, image: dict[str, Any], where: str) -> Iterator[Sentence]:
    sentences = field(image, "sentf", dict, where)
    labels = field(image, "labelf", dict, where) if "labelf" in image else {}
    strays = [source for source in labels if source not in sentences]
    if strays:
        raise ClipfeatError(f"{where}: labelf has {strays[0]!r}, of which sentf has no sentences")
    for source in sentences:
        texts = field(sentences, require_unicode(source, "sentf", where), list, f"{where}, sentf")
        known = field(labels, source, list, f"{where}, labelf") if source in labels else None
        if known is not None and len(known) != len(texts):
            raise ClipfeatError(
                f"{where}: {source!r} has {len(texts)} sentences and {len(known)} labels; "
                "expected a label for each"
            )
        for place, text in enumerate(texts):
            spot = f"{where}, sentf {source}[{place}]"
            if not isinstance(text, str):
                raise ClipfeatError(f"{spot}: a sentence must be a text; got {text!r:.60}")
            answers = None if known is None else _answers(known[place], spot)
            yield Sentence(image_id, require_unicode(text, "sentence", spot), source, answers)


def _answers(label: Any, where: str) -> dict[str, float]:
    """Return {answer: score} of a question; empty where no answer of it counts."""
    if not isinstance(label, dict):
        raise ClipfeatError(f"{where}: its label must be {{answer: score}}; got {label!r:.60}")
    for answer, score in label.items():
        require_unicode(answer, "answer", where)
        if type(score) not in (int, float) or not 0 <= score <= 1:  # NaN is not, either
            raise ClipfeatError(
                f"{where}: the score of answer {answer!r:.60} must be 0 to 1; got {score!r:.60}"
            )
    return {answer: float(score) for answer, score in label.items()}
