"""A tiny corpus on the images of vqa_world: captions that tell the colour, and questions."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stores import make_store
from vqa_world import COLOURS, grid, questions_of, scene, write_split

NAME = "COCO_train2014_{:012}"
FAST = (
    *("train_split=train", "eval_split=heldout", "min_answer_count=1", "sampled_cells=4"),
    *(
        "model.hidden=16",
        "model.layers=1",
        "model.heads=2",
        "model.max_grid_side=3",
        "model.vocab_size=90",
    ),
    *("epochs=2", "batch_size=32", "log_every=1", "lr=1e-2", "max_tokens=12", "model.dropout=0.1"),
    *("objectives.mask_words=0.15", "objectives.mismatch=0.5"),
)


def record_of(image_id: int) -> dict[str, Any]:
    """Return what LXMERT's files have of an image: two captions and three questions."""
    colour = COLOURS[scene(image_id)[0]]
    questions = [(text, {answer: 1.0}) for text, answer, _, _ in questions_of(image_id)]
    captions = [f"A {colour} shape.", f"There is one {colour} thing in image {image_id % 10}."]
    return {
        "img_id": NAME.format(image_id),
        "sentf": {"mscoco": captions, "vqa": [text for text, _ in questions]},
        "labelf": {"vqa": [label for _, label in questions]},
    }


def write_corpus(path: Path, image_ids: Iterable[int]) -> Path:
    """Write one file of a corpus."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([record_of(image_id) for image_id in image_ids]))
    return path


def make_world(folder: Path, *, train: int = 24, held_out: int = 9) -> tuple[Path, Path]:
    """Write a store, the corpus parts `train` and `heldout`, and VQA v2's files; return paths."""
    image_ids = range(1, train + held_out + 1)
    store = make_store(folder / "world.clipfeat", {NAME.format(i): grid(i) for i in image_ids})
    for name, chosen in (("train", image_ids[:train]), ("heldout", image_ids[train:])):
        write_corpus(folder / "corpus" / f"{name}.json", chosen)
    write_split(folder / "corpus", "train2014", list(image_ids[:train]))
    return store, folder / "corpus"
