"""The sentences of COCO, VQA v2, Visual Genome and GQA, from their published files.

The ids of COCO's images are the names of their files, COCO_val2014_000000000042; those of Visual
Genome's and GQA's images are their numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError, reason_of
from ...base.files import read_text, split_lines
from ...base.jsonio import (
    MAX_DATA_BYTES,
    field,
    field_items,
    identifier,
    list_items,
    parse_json,
    read_json,
    read_json_list,
    require_unicode,
)
from . import gqa, vqa2
from .ids import COCO_SPLITS, coco_candidates, coco_number, find_file, require_unique
from .lxmert import Sentence
from .questions import QuestionSplit

GQA_SPLITS = ("train_balanced", "val_balanced")
IMAGE_DATA, REGIONS = "image_data.json", "region_descriptions.json"
# The names that LXMERT's files have for Visual Genome's questions and for its region captions.
VG_QUESTIONS, VG_REGIONS = "visual7w", "vg"


@dataclass
class Damage:
    """The damaged entries of a file, which are left out."""

    entries: int = 0
    first: str = ""  # what is wrong with the first one, and where it is

    def add(self, error: ClipfeatError) -> None:
        """Count an entry."""
        self.entries += 1
        self.first = self.first or str(error)


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
        raise UsageError(
            "no source; pass --captions, --vqa, --visual-genome or several of them",
            code="E-CORPUS-SOURCES",
        )
    if sources.gqa and not sources.visual_genome:
        raise UsageError(
            f"--gqa needs --visual-genome, a folder with {IMAGE_DATA}: it tells which images of "
            "GQA are COCO's, and without it questions about held-out images may leak",
            code="E-CORPUS-SOURCES",
        )
    if sources.captions:
        for part in COCO_SPLITS.values():
            _find_captions(sources.captions, part)
    if sources.vqa:
        for split in COCO_SPLITS:
            for kind in ("questions", "annotations"):
                vqa2.find_vqa2(sources.vqa, split, kind)
    if sources.visual_genome:
        find_file(sources.visual_genome, [IMAGE_DATA], "which --visual-genome reads")
        # With --gqa, the folder may be there for IMAGE_DATA only.
        if not sources.gqa and not has_regions(sources):
            find_file(sources.visual_genome, [vqa2.VG_FILE], "which --visual-genome reads")
    if sources.gqa:
        for split in GQA_SPLITS:
            gqa.files_of(gqa.split_path(sources.gqa, split))


def _find_captions(folder: Path, part: str) -> Path:
    return find_file(folder, [f"captions_{part}.json"], "which --captions reads")


def coco_sentences(sources: Sources) -> Iterator[Sentence]:
    """Yield COCO's captions and VQA v2's questions, as far as they are among the sources."""
    for split, part in COCO_SPLITS.items():
        if sources.captions:
            yield from _captions(_find_captions(sources.captions, part), part)
        if sources.vqa:
            questions = vqa2.read_vqa2(sources.vqa, split, annotated=True)
            for sentence, place in _questions(questions, "vqa"):
                yield sentence._replace(image_id=_coco_name(sentence.image_id, part, place))


def vg_sentences(sources: Sources, coco_of: Mapping[str, int | None]) -> Iterator[Sentence]:
    """Yield the questions of Visual Genome and GQA; `coco_of` is what `read_image_data` returns.

    Raises ClipfeatError for a question about an image that `coco_of` does not have.
    """
    for source, split in _vg_splits(sources):
        for sentence, _ in _questions(split, source):
            _require_image(sentence.image_id, coco_of, split.files[0])
            yield sentence


def has_regions(sources: Sources) -> bool:
    """Return whether the region captions of Visual Genome are among the sources."""
    return sources.visual_genome is not None and (sources.visual_genome / REGIONS).is_file()


def region_captions(
    folder: Path, coco_of: Mapping[str, int | None], damage: Damage
) -> Iterator[Sentence]:
    """Yield the phrase of each region of `folder`/region_descriptions.json.

    As in LXMERT's files, a phrase is a caption of the whole image. These files have 5.4 million of
    them, which is all that Visual Genome has: none is left out for its length, or because it
    repeats another one about the image. Entries that are damaged, or about images that `coco_of`
    does not have, are added to `damage`. Raises ClipfeatError for a file that is not a JSON list,
    and for one without an entry that can be used.
    """
    path = folder / REGIONS
    usable = False
    for image_at, image in read_json_list(path, of="images"):
        for place, region in _regions(image, image_at, damage):
            try:
                image_id = str(identifier(region, "image_id", place))
                _require_image(image_id, coco_of, place)
                text = require_unicode(field(region, "phrase", str, place), "phrase", place)
            except ClipfeatError as error:
                damage.add(error)
                continue
            usable = True
            yield Sentence(image_id, text, VG_REGIONS, None)
    if not usable:
        count = f"{damage.entries:,} damaged entries"
        reason = f" (the first of {count}: {damage.first})" if damage.entries else ""
        raise ClipfeatError(
            f"{path}: contains no region caption that can be used{reason}; download it again, or "
            "move it away to leave the region captions out",
            code="E-DATA-EMPTY",
        )


def _regions(image: Any, place: str, damage: Damage) -> Iterator[tuple[str, Any]]:
    """Yield (place, region) of an image's regions, none of an image that is damaged."""
    try:
        yield from field_items(image, "regions", place)
    except ClipfeatError as error:
        damage.add(error)


def _require_image(image_id: str, coco_of: Mapping[str, int | None], place: object) -> None:
    if image_id not in coco_of:
        raise ClipfeatError(
            f"{place}: {IMAGE_DATA} has no image {image_id!r:.60}, and nothing else tells whether "
            "it is one of COCO's; take both from one release",
            code="E-CORPUS-IMAGE",
        )


def _vg_splits(sources: Sources) -> Iterator[tuple[str, QuestionSplit]]:
    folder = sources.visual_genome
    if folder and (folder / vqa2.VG_FILE).is_file():
        yield VG_QUESTIONS, vqa2.read_visual_genome(folder)
    if sources.gqa:
        for name in GQA_SPLITS:
            yield "gqa", gqa.read_gqa(sources.gqa, name, annotated=True)


def _captions(path: Path, part: str) -> Iterator[Sentence]:
    for place, record in field_items(read_json(path), "annotations", path):
        text = require_unicode(field(record, "caption", str, place), "caption", place)
        image_id = _coco_name(identifier(record, "image_id", place), part, place)
        yield Sentence(image_id, text, "mscoco", None)


def _questions(split: QuestionSplit, source: str) -> Iterator[tuple[Sentence, str]]:
    """Yield each question of a split with the answers that score, and its place."""
    for question in split.questions:
        place = f"{split.files[0]}: question {question.question_id}"
        soft = split.annotations[question.question_id].soft() if split.annotations else {}
        answers = {
            require_unicode(answer, "answer", place): score
            for answer, score in soft.items()
            if score > 0
        }
        text = require_unicode(question.text, "question", place)
        yield Sentence(str(question.image_id), text, source, answers), place


def read_image_data(folder: Path) -> dict[str, int | None]:
    """Return {number of an image in Visual Genome: its number in COCO, None if it has none}."""
    path = folder / IMAGE_DATA
    coco_of: dict[str, int | None] = {}
    for place, image in list_items(read_json(path), path, of="images"):
        image_id = str(identifier(image, "image_id", place))
        require_unique(image_id, coco_of, "image_id", place)
        if "coco_id" in image and image["coco_id"] is None:
            coco_of[image_id] = None
        else:
            coco_of[image_id] = _coco_number(identifier(image, "coco_id", place), "coco_id", place)
    return coco_of


def read_held_out(path: Path) -> frozenset[int]:
    """Return the numbers in COCO of the images that a file lists.

    It has an image a line, a number or a name such as COCO_val2014_000000000042, or is a JSON list
    of these, as LXMERT's coco_minival_img_ids.json, or of records with `img_id`, as its minival
    files; an image may occur several times. Raises ClipfeatError for another file, and for one that
    lists no image.
    """
    try:
        text = read_text(path, MAX_DATA_BYTES)
        is_json = text.lstrip().startswith(("[", "{"))
        content = parse_json(text) if is_json else None
    except (OSError, ValueError) as error:
        raise ClipfeatError(
            f"{path}: not a readable list of images ({reason_of(error)})", code="E-HELD-OUT-READ"
        ) from None
    if is_json:
        images = [
            (place, str(item if type(item) in (int, str) else identifier(item, "img_id", place)))
            for place, item in list_items(content, path, of="images, or of records with img_id")
        ]
    else:
        lines = enumerate(split_lines(text), start=1)
        images = [(f"{path}, line {number}", line.strip()) for number, line in lines]
    numbers = frozenset(_coco_number(image, "an image", place) for place, image in images if image)
    if not numbers:
        raise ClipfeatError(
            f"{path}: lists no image; leave --held-out out to have some chosen",
            code="E-DATA-EMPTY",
        )
    return numbers


def _coco_number(image_id: int | str, name: str, place: str) -> int:
    number = coco_number(image_id)
    if number is None:
        raise ClipfeatError(
            f"{place}: {name} must be a number of COCO, or a name such as "
            f"COCO_val2014_000000000042; got {image_id!r:.60}",
            code="E-CORPUS-IMAGE",
        )
    return number


def _coco_name(image_id: int | str, part: str, place: str) -> str:
    _coco_number(image_id, "image_id", place)
    return coco_candidates(image_id, (part,))[0]
