"""Sentences about images for pre-training, from LXMERT's files and from tables of captions."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...base.csvfile import csv_rows
from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json_list, require_unicode
from ...base.parquet import read_columns, read_schema
from .ids import find_file, require_folder, require_unique
from .questions import read_scores

logger = logging.getLogger(__name__)

SUFFIXES = (".json", ".csv", ".tsv", ".parquet")
TABLE = "table"  # the source of sentences of a table
IMAGE_COLUMNS = ("image_id", "id")
CAPTION_COLUMN = "caption"


class Sentence(NamedTuple):
    """A caption of an image, or a question about it."""

    image_id: str
    text: str
    source: str  # the data set: "mscoco", "vqa", "gqa", "visual7w", "vg", "table"
    answers: dict[str, float] | None  # {answer: score, 0 to 1}; None: not a question


def find_corpus(data: Path, name: str) -> tuple[Path, ...]:
    """Return the files of the folder `data` that hold a corpus such as "mscoco_train+vgnococo".

    Each part is a file of LXMERT's, <part>.json, or a table of captions, <part>.csv, .tsv or
    .parquet. Raises UsageError for a part that is missing, that is in several files, or that is
    named twice.
    """
    require_folder(data, "the corpus files")
    files: list[Path] = []
    for part in name.split("+"):
        possible = [data / f"{part}{suffix}" for suffix in SUFFIXES]
        existing = [path for path in possible if path.is_file()]
        if len(existing) > 1:
            names = " and ".join(path.name for path in existing)
            raise UsageError(
                f"{data} has {names}, and part {part!r} is one file; move one away",
                code="E-DATA-FILE",
            )
        file = find_file(
            data, [path.name for path in possible], f"part {part!r} of corpus {name!r}"
        )
        if file in files:
            raise UsageError(
                f"corpus {name!r} has part {part!r} twice; name it once", code="E-SPLIT-TWICE"
            )
        files.append(file)
    return tuple(files)


def read_sentences(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of one file; blank ones are dropped, and their number is logged.

    Raises ClipfeatError, which names the file and the record, for a file that is in none of the
    formats, and for one without a sentence.
    """
    kept, blank = 0, 0
    for sentence in _lxmert_sentences(path) if path.suffix == ".json" else _table_sentences(path):
        if sentence.text.strip():
            kept += 1
            yield sentence
        else:
            blank += 1
    if blank:
        logger.info(f"{path}: {blank:,} blank sentences are dropped")
    if not kept:
        raise ClipfeatError(f"{path}: holds no sentence; leave it out", code="E-DATA-EMPTY")


def _table_sentences(path: Path) -> Iterator[Sentence]:
    """Yield the caption of each row of a table, of which few rows are held at a time.

    The image's id is in column `image_id` or, without such a column, `id`; its text in `caption`.
    A TSV file has no quotes: Conceptual Captions has captions that begin with one. Raises
    ClipfeatError for a table without these columns, or with a wrong value in them.
    """
    read_rows = {".parquet": _parquet_rows, ".tsv": _tsv_rows}.get(path.suffix, csv_rows)
    column = None
    for place, row in read_rows(path):
        column = column or _image_column(path, row)
        image_id = str(identifier(row, column, place)).strip()
        if not image_id:
            raise ClipfeatError(
                f"{place}: {column} is blank; every caption needs its image", code="E-CORPUS-BLANK"
            )
        text = field(row, CAPTION_COLUMN, str, place)
        yield Sentence(
            require_unicode(image_id, column, place),
            require_unicode(text, CAPTION_COLUMN, place),
            TABLE,
            None,
        )


def _image_column(path: Path, columns: Collection[str]) -> str:
    """Return the name of the column that has the images' ids."""
    column = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if column is None or CAPTION_COLUMN not in columns:
        raise ClipfeatError(
            f"{path}: expected columns {' or '.join(IMAGE_COLUMNS)}, and {CAPTION_COLUMN}; found "
            f"{', '.join(map(repr, columns)):.200}",
            code="E-CORPUS-COLUMNS",
        )
    return column


def _tsv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return csv_rows(path, tabs=True)


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def refuse(reason: str) -> ClipfeatError:
        return ClipfeatError(f"{path}: {reason}; write the columns again", code="E-CORPUS-PARQUET")

    columns = read_schema(path, refuse).names
    names = (_image_column(path, columns), CAPTION_COLUMN)
    for name in names:
        if columns.count(name) > 1:
            raise refuse(f"has two columns {name}")
    for number, row in enumerate(read_columns(path, names, refuse)):
        yield f"{path}, row {number}", dict(zip(names, row, strict=True))


def _lxmert_sentences(path: Path) -> Iterator[Sentence]:
    seen: set[str] = set()
    for place, image in read_json_list(path, of="images"):
        image_id = require_unicode(str(identifier(image, "img_id", place)), "img_id", place)
        require_unique(image_id, seen, "img_id", place)
        seen.add(image_id)
        yield from _sentences_of(image_id, image, f"{place} {image_id!r}")


def _sentences_of(image_id: str, image: dict[str, Any], place: str) -> Iterator[Sentence]:
    sentences = field(image, "sentf", dict, place)
    labels = field(image, "labelf", dict, place) if "labelf" in image else {}
    strays = [source for source in labels if source not in sentences]
    if strays:
        raise ClipfeatError(
            f"{place}: labelf has {strays[0]!r}, of which sentf has no sentences",
            code="E-CORPUS-LABELS",
        )
    for source in sentences:
        texts = field(sentences, require_unicode(source, "sentf", place), list, f"{place}, sentf")
        of_texts = field(labels, source, list, f"{place}, labelf") if source in labels else None
        if of_texts is not None and len(of_texts) != len(texts):
            raise ClipfeatError(
                f"{place}: {source!r} has {len(texts)} sentences and {len(of_texts)} labels; "
                "expected a label for each",
                code="E-CORPUS-LABELS",
            )
        for number, text in enumerate(texts):
            spot = f"{place}, sentf {source}[{number}]"
            if not isinstance(text, str):
                raise ClipfeatError(
                    f"{spot}: a sentence must be a text; got {text!r:.60}", code="E-JSON-TYPE"
                )
            answers = None if of_texts is None else read_scores(of_texts[number], spot)
            yield Sentence(image_id, require_unicode(text, "sentence", spot), source, answers)
