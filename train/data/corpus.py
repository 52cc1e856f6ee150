"""The sentences of COCO, VQA v2, Visual Genome and GQA, from the files as they are published.

Images of COCO go by the names of their files, COCO_val2014_000000000042; those of Visual Genome and
GQA by their numbers.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.files import read_text, split_lines
from ...base.jsonio import MAX_DATA_BYTES, field, identifier, parse_json, read_json
from . import gqa, visual_genome, vqa2
from .ids import COCO_NAME, coco_candidates, coco_number
from .lxmert import Sentence, require_unicode
from .questions import Split

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


def read_held_out(path: Path) -> frozenset[int]:
    """Return the numbers in COCO of the images that a file lists.

    It has an image a line, a number or a name such as COCO_val2014_000000000042, or is a JSON list
    of records with `img_id`, as LXMERT's minival files are; an image may come many times. Raises
    ClipfeatError for another file, and for one that lists none.
    """
    try:
        text = read_text(path, MAX_DATA_BYTES)
        content = parse_json(text) if text.lstrip().startswith(("[", "{")) else None
    except OSError as error:
        raise ClipfeatError(
            f"{path}: cannot be read ({error.strerror})", code="E-HELD-OUT-READ"
        ) from None
    except ValueError as error:
        raise ClipfeatError(f"{path}: not a readable JSON file ({error})") from None
    if content is not None:
        listed = _records(path, content)
    else:
        lines = enumerate(split_lines(text), start=1)
        listed = [(f"{path}, line {number}", line.strip()) for number, line in lines]
    numbers = frozenset(_image_number(image, where) for where, image in listed if image)
    if not numbers:
        raise ClipfeatError(f"{path}: lists no image; leave --held-out away to have some chosen")
    return numbers


def _records(path: Path, content: Any) -> list[tuple[str, str]]:
    if not isinstance(content, list):
        raise ClipfeatError(f"{path}: expected a list of records with img_id; got {content!r:.60}")
    places = ((f"{path}: [{number}]", record) for number, record in enumerate(content))
    return [(where, str(identifier(record, "img_id", where))) for where, record in places]


def _image_number(image: str, where: str) -> int:
    number = coco_number(image)
    if number is None:
        raise ClipfeatError(
            f"{where}: expected a number of COCO, or a name such as COCO_val2014_000000000042; "
            f"got {image!r:.60}"
        )
    return number


HELD_OUT = "mscoco_minival"
VISUAL_GENOME = "vgnococo"
FILE_OF = {"train2014": "mscoco_train", "val2014": "mscoco_nominival"}
FILES = (*FILE_OF.values(), HELD_OUT, VISUAL_GENOME)
MOST_HELD_OUT, SHARE_HELD_OUT = 5000, 8  # LXMERT holds 5,000 of 40,504 images out: an eighth

Record = dict[str, Any]  # an image as LXMERT's files have it: img_id, sentf, labelf


@dataclass
class Gathered:
    """The sentences so far, by image; and what was dropped."""

    images: dict[str, Record] = dataclasses.field(default_factory=dict)
    blank: int = 0  # sentences without a word
    strays: Counter[str] = dataclasses.field(
        default_factory=Counter
    )  # VG's images of COCO, of unknown part

    def add(self, sentences: Iterable[Sentence]) -> None:
        """File each sentence under its image."""
        for sentence in sentences:
            if not sentence.text.strip():
                self.blank += 1
                continue
            empty: Record = {"img_id": sentence.image_id, "sentf": {}, "labelf": {}}
            image = self.images.setdefault(sentence.image_id, empty)
            image["sentf"].setdefault(sentence.source, []).append(sentence.text)
            if sentence.answers is not None:
                image["labelf"].setdefault(sentence.source, []).append(sentence.answers)

    def add_visual_genome(
        self,
        sentences: Iterable[Sentence],
        coco_of: Mapping[str, int | None],
        names: Mapping[int, str],
    ) -> None:
        """File sentences about images of Visual Genome, those of COCO's under COCO's name.

        `coco_of` has the number in COCO of each image, or None, and `names` the name of each
        number. An image whose number has no name is left out: it may be one that is held out.
        """
        for sentence in sentences:
            number = coco_of[sentence.image_id]
            if number is None:
                self.add([sentence])
            elif number in names:
                self.add([sentence._replace(image_id=names[number])])
            else:
                self.strays[sentence.image_id] += 1


def coco_names(image_ids: Iterable[str]) -> dict[int, str]:
    """Return {number: name} of images of COCO; ClipfeatError where one is in two parts of it."""
    names: dict[int, str] = {}
    for image_id in image_ids:
        if coco := COCO_NAME.fullmatch(image_id):
            other = names.setdefault(int(coco[2]), image_id)
            if other != image_id:
                raise ClipfeatError(
                    f"image {int(coco[2])} is both {other} and {image_id}; each image of COCO is "
                    "in one part, so one of its files is another's under a wrong name"
                )
    return names


def choose_held_out(names: Mapping[int, str]) -> frozenset[int]:
    """Return the numbers of the images to hold out where no list names them.

    They are an eighth of val2014, rounded up, and at most 5,000: those whose names have the
    smallest sha256, so that the same images give the same choice anywhere.
    """
    ranks = sorted(
        (hashlib.sha256(name.encode()).digest(), number)
        for number, name in names.items()
        if "_val2014_" in name
    )
    count = min(MOST_HELD_OUT, -(-len(ranks) // SHARE_HELD_OUT))
    return frozenset(number for _, number in ranks[:count])


def divide(images: Mapping[str, Record], held_out: Collection[int]) -> dict[str, list[Record]]:
    """Return {file: its images, by img_id} of the files that have any.

    Images of COCO whose number is in `held_out` are in mscoco_minival and nowhere else.
    """
    files: dict[str, list[Record]] = {name: [] for name in FILES}
    for image_id in sorted(images):
        files[_file_of(image_id, held_out)].append(images[image_id])
    return {name: records for name, records in files.items() if records}


def _file_of(image_id: str, held_out: Collection[int]) -> str:
    coco = COCO_NAME.fullmatch(image_id)
    if coco is None:
        return VISUAL_GENOME
    return HELD_OUT if int(coco[2]) in held_out else FILE_OF[coco[1]]
