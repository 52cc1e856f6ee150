"""VQA v2's val in two, so that fine-tuning trains on no held-out image and is scored on those."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ...grounded.images import coco_number
from ...runs.jsonfile import read_json
from ...vqa.datasets import vqa2

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
