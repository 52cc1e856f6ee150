"""VQA v2's val in two, so that fine-tuning trains on no held-out image and is scored on those."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ...base.errors import ClipfeatError, UsageError
from ...base.files import atomic_file
from ...base.jsonio import read_json
from . import vqa2
from .corpus import (
    FILES,
    HELD_OUT,
    Gathered,
    Record,
    Sources,
    choose_held_out,
    coco_names,
    coco_sentences,
    divide,
    read_held_out,
    read_image_data,
    require_files,
    vg_sentences,
)
from .ids import coco_number
from .lxmert import Sentence

WHAT = ("questions", "annotations")


def split_names(part: str) -> tuple[str, ...]:
    """Return the names of the files of split `part`, "minival" or "nominival"."""
    return tuple(f"{what}_{part}.json" for what in WHAT)


def split_val(vqa: Path, held_out: Collection[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file name, content) of VQA v2's val, cut into minival and nominival.

    `held_out` are the numbers of COCO of the images that are in minival. The files are in VQA v2's
    own format, and in the order of the official ones, which have been read once without an error.
    """
    questions = read_json(vqa2.find_file(vqa, "val", "questions"))
    asked = {
        question["question_id"]
        for question in questions["questions"]
        if coco_number(question["image_id"]) in held_out
    }
    annotations = read_json(vqa2.find_file(vqa, "val", "annotations"))
    for what, content in zip(WHAT, (questions, annotations), strict=True):
        for part, wanted in (("nominival", False), ("minival", True)):
            kept = [r for r in content[what] if (r["question_id"] in asked) is wanted]
            if kept:
                yield f"{what}_{part}.json", content | {what: kept}


class FileCounts(NamedTuple):
    """How much a file holds."""

    images: int
    sentences: int  # questions among them
    questions: int


@dataclass(frozen=True)
class Written:
    """What was written, and what was left out."""

    out: Path
    files: dict[str, FileCounts]  # by the file's name, less .json
    held_out: int  # images
    held_out_without_sentence: int
    stray_images: int  # of COCO, as Visual Genome says, but of no part of it that was given
    stray_sentences: int
    blank: int  # sentences


def write_corpus(sources: Sources, out: Path, held_out: Path | None) -> Written:
    """Write the files of the corpus that `sources` make up into the folder `out`, all or none.

    Images that the list `held_out` names, or else those of `choose_held_out`, are in
    mscoco_minival.json and in no other file. VQA v2's val is written in two beside, cut in the
    same way. Raises UsageError for a missing source, for files
    that are there already, and for a list of which no image is known; ClipfeatError for bad data.
    """
    require_files(sources)
    _require_free(out)
    listed = read_held_out(held_out) if held_out else None

    gathered = Gathered()
    gathered.add(_with_bar(coco_sentences(sources), "COCO"))
    names = coco_names(gathered.images)
    if listed is not None and not listed & names.keys():
        raise UsageError(
            f"none of the {len(listed)} images of {held_out} is in the captions or in VQA's "
            "questions, which --held-out is about; it may be another data set's"
        )
    if sources.visual_genome:
        coco_of = read_image_data(sources.visual_genome)
        found = _with_bar(vg_sentences(sources, coco_of), "Visual Genome")
        gathered.add_visual_genome(found, coco_of, names)

    chosen = choose_held_out(names) if listed is None else listed
    files = divide(gathered.images, chosen)
    if not files:
        raise ClipfeatError("the sources hold no sentence that could be kept; nothing is written")
    _write(out, files, split_val(sources.vqa, chosen) if sources.vqa else ())
    return Written(
        out,
        {name: _counts(records) for name, records in files.items()},
        len(files.get(HELD_OUT, ())),
        len(chosen - names.keys()),
        len(gathered.strays),
        gathered.strays.total(),
        gathered.blank,
    )


def _with_bar(sentences: Iterator[Sentence], title: str) -> Iterator[Sentence]:
    yield from tqdm(sentences, title, unit=" sentences", disable=None)


def _require_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder; --out takes one, or the name of a new one")
    names = [f"{name}.json" for name in FILES]
    names += [name for part in ("nominival", "minival") for name in split_names(part)]
    there = [name for name in names if (out / name).exists()]
    if there:
        raise UsageError(f"{out} has {', '.join(there)} already; delete them or name another --out")


def _write(
    out: Path, files: dict[str, list[Record]], more: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """Write each file under another name, and give all of them theirs when the last is whole."""
    out.mkdir(parents=True, exist_ok=True)
    total = sum(len(records) for records in files.values())
    with (
        ExitStack() as stack,
        tqdm(total=total, desc="writing", unit=" images", disable=None) as bar,
    ):
        for name, records in files.items():
            file = stack.enter_context(atomic_file(out / f"{name}.json", replace=False))
            for piece in _pieces(records):
                file.write(piece)
                bar.update()
        for name, content in more:
            file = stack.enter_context(atomic_file(out / name, replace=False))
            file.write((json.dumps(content) + "\n").encode())


def _pieces(records: Sequence[Record]) -> Iterator[bytes]:
    """Yield a JSON list in pieces, a record a line; in ASCII, as all JSON here."""
    before = "[\n"
    for record in records:
        end = "\n]\n" if record is records[-1] else ""
        yield f"{before}{json.dumps(record)}{end}".encode()
        before = ",\n"


def _counts(records: Sequence[Record]) -> FileCounts:
    sentences, questions = (
        sum(len(of_source) for record in records for of_source in record[key].values())
        for key in ("sentf", "labelf")
    )
    return FileCounts(len(records), sentences, questions)


def table(written: Written) -> str:
    """Return a line for each file: how many images, sentences, and questions among these."""
    rows = [
        (f"{name}.json", *(f"{count:,}" for count in counts))
        for name, counts in written.files.items()
    ]
    return "\n".join(
        f"{name:<22}" + "".join(f"{text:>12}" for text in texts)
        for name, *texts in [("file", *FileCounts._fields), *rows]
    )


def remarks(written: Written) -> Iterator[str]:
    """Yield a line for each thing that a person should know of what was left out."""
    if written.held_out:
        yield f"held out: {written.held_out:,} images of COCO, in {HELD_OUT}.json and nowhere else"
    else:
        yield "nothing is held out: no image of COCO's val2014 has a sentence"
    if written.held_out_without_sentence:
        yield f"{written.held_out_without_sentence:,} images of the list have no caption or question"
    if written.stray_images:
        yield (
            f"left out: {written.stray_sentences:,} questions about {written.stray_images:,} images "
            "of Visual Genome that are COCO's, as neither captions nor VQA v2's questions tell "
            "their part of it; pass --captions or --vqa, or both whole"
        )
    if written.blank:
        yield f"left out: {written.blank:,} blank sentences"


def to_json(written: Written) -> dict[str, Any]:
    """Return the same for programs."""
    files = {name: counts._asdict() for name, counts in written.files.items()}
    return asdict(written) | {"out": str(written.out), "files": files}
