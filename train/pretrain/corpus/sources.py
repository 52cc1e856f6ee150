"""The sentences of COCO, VQA v2, Visual Genome and GQA, from the files as they are published.

Images of COCO go by the names of their files, COCO_val2014_000000000042; those of Visual Genome and
GQA by their numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError, UsageError
from ...grounded.images import coco_candidates, coco_number
from ...runs.jsonfile import field, identifier, read_json
from ...vqa.datasets import gqa, visual_genome, vqa2
from ...vqa.datasets.split import Split
from .sentences import Sentence, require_unicode

COCO_PARTS = {"train": "train2014", "val": "val2014"}
GQA_SPLITS = ("train_balanced", "val_balanced")
IMAGE_DATA = "image_data.json"
# LXMERT's files have Visual Genome's questions under this name; their "vg" is its region captions.
VG_QUESTIONS = "visual7w"


@dataclass(frozen=True)
class Sources:
    """The folders of the data sets' own files; None for one that is left out."""

    captions: Path | None = None
    vqa: Path | None = None
    visual_genome: Path | None = None
    gqa: Path | None = None


def require_files(sources: Sources) -> None:
    """Raise UsageError where a file is missing, before the first one is read."""
    if sources == Sources():
        raise UsageError("no source; pass --captions, --vqa, --visual-genome or several of them")
    if sources.gqa and not sources.visual_genome:
        raise UsageError(
            f"--gqa needs --visual-genome, a folder with {IMAGE_DATA}: it tells which images of "
            "GQA are COCO's, and without it questions about held-out images may leak"
        )
    if sources.captions:
        for part in COCO_PARTS.values():
            _require(_captions_file(sources.captions, part), "--captions")
    if sources.vqa:
        for split in COCO_PARTS:
            for what in ("questions", "annotations"):
                vqa2.find_file(sources.vqa, split, what)
    if sources.visual_genome:
        _require(sources.visual_genome / IMAGE_DATA, "--visual-genome")
        if not sources.gqa:  # which may be all that is wanted about its images
            _require(sources.visual_genome / visual_genome.FILE, "--visual-genome")
    if sources.gqa:
        for split in GQA_SPLITS:
            gqa.files_of(gqa.split_path(sources.gqa, split))


def coco_sentences(sources: Sources) -> Iterator[Sentence]:
    """Yield COCO's captions and VQA v2's questions, as far as they are among the sources."""
    for split, part in COCO_PARTS.items():
        if sources.captions:
            yield from _captions(_captions_file(sources.captions, part), part)
        if sources.vqa:
            read = vqa2.read_split(sources.vqa, split, annotated=True)
            for question, sentence in zip(read.questions, _questions(read, "vqa"), strict=True):
                where = f"{read.files[0]}: question {question.question_id}"
                yield sentence._replace(image_id=_coco_name(question.image_id, part, where))


def vg_sentences(sources: Sources, coco_of: Mapping[str, int | None]) -> Iterator[Sentence]:
    """Yield the questions of Visual Genome and GQA; `coco_of` is what `read_image_data` returns.

    Raises ClipfeatError for a question about an image that `coco_of` does not have.
    """
    for source, split in _vg_splits(sources):
        for sentence in _questions(split, source):
            if sentence.image_id not in coco_of:
                raise ClipfeatError(
                    f"{split.files[0]}: {IMAGE_DATA} has no image {sentence.image_id!r:.60}, and "
                    "nothing else tells whether it is one of COCO's; take both from one release"
                )
            yield sentence


def read_image_data(folder: Path) -> dict[str, int | None]:
    """Return {number of an image in Visual Genome: its number in COCO}; None if it is not there."""
    path = folder / IMAGE_DATA
    images = read_json(path)
    if not isinstance(images, list):
        raise ClipfeatError(f"{path}: expected a list of images; got {images!r:.60}")
    coco_of: dict[str, int | None] = {}
    for number, image in enumerate(images):
        where = f"{path}: [{number}]"
        image_id = str(identifier(image, "image_id", where))
        if image_id in coco_of:
            raise ClipfeatError(f"{where}: image_id {image_id} is there twice; drop one")
        known = "coco_id" in image and image["coco_id"] is None
        coco_of[image_id] = None if known else _number(image, "coco_id", where)
    return coco_of


def _vg_splits(sources: Sources) -> Iterator[tuple[str, Split]]:
    folder = sources.visual_genome
    if folder and (folder / visual_genome.FILE).is_file():
        yield VG_QUESTIONS, visual_genome.read_split(folder)
    if sources.gqa:
        for name in GQA_SPLITS:
            yield "gqa", gqa.read_split(sources.gqa, name, annotated=True)


def _questions(split: Split, source: str) -> Iterator[Sentence]:
    """Yield the questions of a split, with the answers that score."""
    for question in split.questions:
        where = f"{split.files[0]}: question {question.question_id}"
        soft = split.annotations[question.question_id].soft() if split.annotations else {}
        answers = {
            require_unicode(answer, "answer", where): score
            for answer, score in soft.items()
            if score > 0
        }
        text = require_unicode(question.text, "question", where)
        yield Sentence(str(question.image_id), text, source, answers)


def _captions(path: Path, part: str) -> Iterator[Sentence]:
    for number, record in enumerate(field(read_json(path), "annotations", list, path)):
        where = f"{path}: annotations[{number}]"
        text = require_unicode(field(record, "caption", str, where), "caption", where)
        image_id = _coco_name(identifier(record, "image_id", where), part, where)
        yield Sentence(image_id, text, "mscoco", None)


def _captions_file(folder: Path, part: str) -> Path:
    return folder / f"captions_{part}.json"


def _require(path: Path, option: str) -> None:
    if not path.is_file():
        raise UsageError(f"{path.parent} has no {path.name}, which is what {option} reads")


def _number(image: Any, key: str, where: str) -> int:
    image_id = identifier(image, key, where)
    number = coco_number(image_id)
    if number is None:
        raise ClipfeatError(f"{where}: {key} must be a number of COCO; got {image_id!r:.60}")
    return number


def _coco_name(image_id: int | str, part: str, where: str) -> str:
    _number({"image_id": image_id}, "image_id", where)
    return coco_candidates(image_id, (part,))[0]
