"""A tiny SNLI-VE world: grids with one coloured shape each, and statements about its colour."""

import json
from pathlib import Path
from typing import Any

from stores import make_store
from vqa_world import COLOURS, grid, scene

FAST = (
    *("model.hidden=32", "model.embedding=16"),
    *("epochs=4", "batch_size=16", "log_every=1", "lr=1e-2"),
)


def rows_of(image_id: int) -> list[dict[str, Any]]:
    """Return a row of each kind for an image: its colour, another, and what nobody can see."""
    colour = scene(image_id)[0]
    is_red, is_green = (COLOURS[colour] == name for name in ("red", "green"))
    statements = (
        ("The shape is red.", "entailment" if is_red else "contradiction"),
        ("The shape is green.", "entailment" if is_green else "contradiction"),
        ("It may be old.", "neutral"),
    )
    return [
        {
            "annotator_labels": [label] * 5,
            "captionID": f"{image_id}.jpg#0",
            "Flickr30K_ID": str(image_id),
            "gold_label": label,
            "pairID": f"{image_id}.jpg#0r{number}{label[0]}",
            "sentence1": "A shape.",
            "sentence2": text,
        }
        for number, (text, label) in enumerate(statements)
    ]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_world(
    folder: Path, *, name: str = "{}", train: int = 60, dev: int = 20
) -> tuple[Path, Path]:
    """Write a store and files of splits train, dev and test under `folder`; return the paths."""
    ids = list(range(1, train + 2 * dev + 1))
    store = make_store(folder / "world.clipfeat", {name.format(i): grid(i) for i in ids})
    parts = {"train": ids[:train], "dev": ids[train : train + dev], "test": ids[train + dev :]}
    for split, images in parts.items():
        rows = [row for image in images for row in rows_of(image)]
        write_rows(folder / "snli_ve" / f"snli_ve_{split}.jsonl", rows)
    return store, folder / "snli_ve"
