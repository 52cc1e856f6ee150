"""Read sentences about images: files in LXMERT's format, and tables of captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError, UsageError
from ....base.text import say
from ...runs.jsonfile import field, identifier, read_json
from .sentences import Sentence, require_unicode
from .tables import captions

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
        say(f"{path}: {blank:,} blank sentences are dropped")
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
