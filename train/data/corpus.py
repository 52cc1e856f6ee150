"""A corpus for pre-training in LXMERT's format: gathered by image, divided into files, written.

Images are held out of training in all data sets at once. VQA v2's val is divided in the same way,
so that fine-tuning can train on the images that are not held out and be scored on the others.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ...base.errors import ClipfeatError, UsageError
from ...base.files import atomic_file, require_folder
from ...base.jsonio import read_json
from .corpus_sources import (
    REGIONS,
    Damage,
    Sources,
    coco_sentences,
    has_regions,
    read_held_out,
    read_image_data,
    region_captions,
    require_files,
    vg_sentences,
)
from .ids import COCO_NAME, COCO_SPLITS, coco_number
from .lxmert import Sentence
from .vqa2 import find_vqa2

logger = logging.getLogger(__name__)

HELD_OUT = "mscoco_minival"
NO_COCO = "vgnococo"  # images of Visual Genome that are not COCO's
FILE_OF_PART = {COCO_SPLITS["train"]: "mscoco_train", COCO_SPLITS["val"]: "mscoco_nominival"}
FILES = (*FILE_OF_PART.values(), HELD_OUT, NO_COCO)
MAX_HELD_OUT, HELD_OUT_DIVISOR = 5000, 8  # LXMERT holds 5,000 of 40,504 images out: an eighth
KINDS = ("questions", "annotations")  # files of VQA v2
HALVES = ("nominival", "minival")  # of VQA v2's val: the images that are not held out, and the rest

Record = dict[str, Any]  # an image in LXMERT's files: img_id, sentf, labelf


@dataclass
class Gathered:
    """The sentences so far, by image, and the number of those that were dropped."""

    images: dict[str, Record] = dataclasses.field(default_factory=dict)
    blank: int = 0  # sentences without a word
    # {image of Visual Genome: its sentences}, of images of COCO whose part is unknown
    unknown_part: Counter[str] = dataclasses.field(default_factory=Counter)

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
        """File sentences about images of Visual Genome, those of COCO under COCO's name.

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
                self.unknown_part[sentence.image_id] += 1


def coco_names(image_ids: Iterable[str]) -> dict[int, str]:
    """Return {number: name} of the images of COCO; ClipfeatError for one in two parts of it."""
    names: dict[int, str] = {}
    for image_id in image_ids:
        if match := COCO_NAME.fullmatch(image_id):
            number = int(match[2])
            name = names.setdefault(number, image_id)
            if name != image_id:
                raise ClipfeatError(
                    f"image {number} is both {name} and {image_id}; each image of COCO is in one "
                    "part, so one of its files has a wrong name",
                    code="E-CORPUS-PARTS",
                )
    return names


def choose_held_out(names: Mapping[int, str]) -> frozenset[int]:
    """Return the numbers of the images to hold out where no list names them.

    They are an eighth of val2014, rounded up, and at most 5,000: those whose names have the
    smallest sha256, so that the same images give the same choice everywhere.
    """
    ranks = sorted(
        (hashlib.sha256(name.encode()).digest(), number)
        for number, name in names.items()
        if f"_{COCO_SPLITS['val']}_" in name
    )
    count = min(MAX_HELD_OUT, -(-len(ranks) // HELD_OUT_DIVISOR))
    return frozenset(number for _, number in ranks[:count])


def divide(images: Mapping[str, Record], held_out: Collection[int]) -> dict[str, list[Record]]:
    """Return {file: its images, by img_id} of the files that have any.

    Images of COCO whose number is in `held_out` are in mscoco_minival and in no other file.
    """
    files: dict[str, list[Record]] = {name: [] for name in FILES}
    for image_id in sorted(images):
        match = COCO_NAME.fullmatch(image_id)
        if match is None:
            file = NO_COCO
        else:
            file = HELD_OUT if int(match[2]) in held_out else FILE_OF_PART[match[1]]
        files[file].append(images[image_id])
    return {name: records for name, records in files.items() if records}


def divide_val(vqa: Path, held_out: Collection[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file name, content) of VQA v2's val, divided into nominival and minival.

    `held_out` are the numbers in COCO of the images of minival. The files are in VQA v2's own
    format, and in the order of the official ones, which have been read once without an error.
    """
    questions, annotations = (read_json(find_vqa2(vqa, "val", kind)) for kind in KINDS)
    in_minival = {
        question["question_id"]
        for question in questions["questions"]
        if coco_number(question["image_id"]) in held_out
    }
    for kind, content in zip(KINDS, (questions, annotations), strict=True):
        for half in HALVES:
            wanted = half == "minival"
            kept = [r for r in content[kind] if (r["question_id"] in in_minival) is wanted]
            if kept:
                yield _val_file(kind, half), content | {kind: kept}


def _val_file(kind: str, half: str) -> str:
    return f"{kind}_{half}.json"


class FileCounts(NamedTuple):
    """The numbers of records of a file."""

    images: int
    sentences: int  # questions included
    questions: int


@dataclass(frozen=True)
class WrittenCorpus:
    """What was written, and what was left out."""

    out: Path
    files: dict[str, FileCounts]  # by the file's name, less .json
    held_out: int  # images
    held_out_without_sentence: int
    stray_images: int  # of COCO, says Visual Genome, but of none of its parts that were given
    stray_sentences: int
    blank: int  # sentences
    damage: Damage  # in the file of region captions


def write_corpus(sources: Sources, out: Path, held_out: Path | None) -> WrittenCorpus:
    """Write the files of the corpus that `sources` make up into the folder `out`, all or none.

    Images that the list `held_out` names, or else those of `choose_held_out`, are in
    mscoco_minival.json and in no other file. VQA v2's val is written too, divided in the same
    way. Raises UsageError for a missing source, for files that already exist, and for a list of
    which no image is known; ClipfeatError for wrong data.
    """
    require_files(sources)
    _require_new_files(out)
    if sources.visual_genome and not has_regions(sources):
        logger.info(
            f"{sources.visual_genome} has no {REGIONS}: the corpus gets no region captions, which "
            "are 5.4 of the 9.2 million sentences of LXMERT's files"
        )
    listed = read_held_out(held_out) if held_out else None

    gathered = Gathered()
    gathered.add(_with_bar(coco_sentences(sources), "COCO"))
    names = coco_names(gathered.images)
    if listed is not None and not listed & names.keys():
        raise UsageError(
            f"none of the {len(listed)} images of {held_out} is in the captions or in VQA's "
            "questions, which --held-out is about; it may be another data set's",
            code="E-CORPUS-HELD-OUT",
        )
    damage = Damage()
    if sources.visual_genome:
        coco_of = read_image_data(sources.visual_genome)
        sentences = vg_sentences(sources, coco_of)
        if has_regions(sources):
            captions = region_captions(sources.visual_genome, coco_of, damage)
            sentences = itertools.chain(sentences, captions)
        gathered.add_visual_genome(_with_bar(sentences, "Visual Genome"), coco_of, names)

    chosen = choose_held_out(names) if listed is None else listed
    files = divide(gathered.images, chosen)
    if not files:
        raise ClipfeatError(
            "the sources hold no sentence that could be kept; nothing is written",
            code="E-DATA-EMPTY",
        )
    _write(out, files, divide_val(sources.vqa, chosen) if sources.vqa else ())
    return WrittenCorpus(
        out,
        {name: _counts(records) for name, records in files.items()},
        len(files.get(HELD_OUT, ())),
        len(chosen - names.keys()),
        len(gathered.unknown_part),
        gathered.unknown_part.total(),
        gathered.blank,
        damage,
    )


def _with_bar(sentences: Iterator[Sentence], title: str) -> Iterator[Sentence]:
    yield from tqdm(sentences, title, unit=" sentences", disable=None)


def _require_new_files(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"{out} is not a folder; --out takes one, or the name of a new one",
            code="E-CORPUS-OUT",
        )
    require_folder(out, "--out")
    names = [f"{name}.json" for name in FILES]
    names += [_val_file(kind, half) for half in HALVES for kind in KINDS]
    existing = [name for name in names if (out / name).exists()]
    if existing:
        raise UsageError(
            f"{out} has {', '.join(existing)} already; delete them or name another --out",
            code="E-CORPUS-OUT",
        )


def _write(
    out: Path, files: dict[str, list[Record]], more: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """Write each file under a temporary name, and rename all of them when the last is complete."""
    out.mkdir(parents=True, exist_ok=True)
    total = sum(len(records) for records in files.values())
    with (
        ExitStack() as stack,
        tqdm(total=total, desc="writing", unit=" images", disable=None) as bar,
    ):
        for name, records in files.items():
            file = stack.enter_context(atomic_file(out / f"{name}.json", replace=False))
            for line in _json_lines(records):
                file.write(line)
                bar.update()
        for name, content in more:
            file = stack.enter_context(atomic_file(out / name, replace=False))
            file.write((json.dumps(content) + "\n").encode())


def _json_lines(records: Sequence[Record]) -> Iterator[bytes]:
    """Yield a JSON list of records in parts, a record a line; in ASCII, as all JSON here."""
    before = "[\n"
    for record in records:
        after = "\n]\n" if record is records[-1] else ""
        yield f"{before}{json.dumps(record)}{after}".encode()
        before = ",\n"


def _counts(records: Sequence[Record]) -> FileCounts:
    sentences, questions = (
        sum(len(texts) for record in records for texts in record[key].values())
        for key in ("sentf", "labelf")
    )
    return FileCounts(len(records), sentences, questions)


def format_table(written: WrittenCorpus) -> str:
    """Return a line for each file: how many images, sentences, and questions among these."""
    rows = [
        (f"{name}.json", *(f"{count:,}" for count in counts))
        for name, counts in written.files.items()
    ]
    return "\n".join(
        f"{name:<22}" + "".join(f"{cell:>12}" for cell in cells)
        for name, *cells in [("file", *FileCounts._fields), *rows]
    )


def format_notes(written: WrittenCorpus) -> Iterator[str]:
    """Yield a line for each thing that a person should know about what was left out."""
    if written.held_out:
        yield f"held out: {written.held_out:,} images of COCO, in {HELD_OUT}.json and nowhere else"
    else:
        yield "nothing is held out: no image of COCO's val2014 has a sentence"
    if written.held_out_without_sentence:
        yield f"{written.held_out_without_sentence:,} images of the list have no caption or question"
    if written.stray_images:
        yield (
            f"left out: {written.stray_sentences:,} sentences about {written.stray_images:,} images "
            "of Visual Genome that are COCO's, because neither captions nor VQA v2's questions tell "
            "their part of it; pass --captions or --vqa, or both completely"
        )
    if written.blank:
        yield f"left out: {written.blank:,} blank sentences"
    if written.damage.entries:
        yield (
            f"left out: {written.damage.entries:,} damaged entries of {REGIONS}, the first one: "
            f"{written.damage.first}"
        )


def to_json(written: WrittenCorpus) -> dict[str, Any]:
    """Return the same as a JSON record."""
    files = {name: counts._asdict() for name, counts in written.files.items()}
    return asdict(written) | {"out": str(written.out), "files": files}
