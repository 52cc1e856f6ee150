"""What was written of a corpus, for people and for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from .build import HELD_OUT
from .write import FileCounts, Written


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
