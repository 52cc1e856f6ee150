"""A tiny captioned world: grids with one coloured shape each, and captions that tell its colour."""

import json
from pathlib import Path
from typing import Any

from stores import make_store
from vqa_world import COLOURS, grid, scene

from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.captioning.training import train_stages
from clipfeat.train.tasks.settings import CaptionSettings

# A caption of four words, so that CIDEr-D has n-grams of each order.
FAST = (
    *("min_count=1", "epochs=12", "batch_size=8", "log_every=1", "lr=3e-3", "clip_norm=1"),
    *("decoding.max_tokens=8", "scst.epochs=2", "scst.lr=3e-4", "scst.samples=3"),
    "scst.batch_size=8",
)
TRANSFORMER = (
    "model={name='transformer', hidden=32, layers=1, heads=2, dropout=0.1, cell_dropout=0.0}"
)
UPDN = "model={name='updn', embedding=16, hidden=32, attention=16, dropout=0.1, cell_dropout=0.0}"


def caption_of(image_id: int) -> str:
    return f"A {COLOURS[scene(image_id)[0]]} shape here."


def name_of(image_id: int, split: str) -> str:
    subset = "train2014" if split == "train" else "val2014"
    return f"COCO_{subset}_{image_id:012}"


def row_of(image_id: int, split: str, *captions: str) -> dict[str, Any]:
    """Return an image as Karpathy's file has it."""
    sentences = [{"raw": caption} for caption in captions or (caption_of(image_id),) * 2]
    return {
        "cocoid": image_id,
        "filepath": "images",
        "filename": f"{name_of(image_id, split)}.jpg",
        "split": split,
        "sentences": sentences,
    }


def write_rows(data: Path, rows: list[dict[str, Any]]) -> Path:
    """Write Karpathy's file; return its folder."""
    data.mkdir(parents=True, exist_ok=True)
    (data / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    return data


def make_world(folder: Path, *, train: int = 30, val: int = 10, test: int = 8) -> tuple[Path, Path]:
    """Write a store and Karpathy's file under `folder`; return the store and the data."""
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    pairs = list(enumerate(splits, start=1))
    store = make_store(folder / "world.clipfeat", {name_of(i, s): grid(i) for i, s in pairs})
    return store, write_rows(folder / "captions", [row_of(i, s) for i, s in pairs])


def train_world(
    world: tuple[Path, Path], out: Path, *changes: str, stages: tuple[str, ...]
) -> dict[str, Any]:
    """Train the tiny transformer; return the result of each stage."""
    settings = load_settings(
        CaptionSettings, config=None, assignments=[*FAST, TRANSFORMER, *changes]
    )
    results, _ = train_stages(
        settings, out, stages=stages, store=world[0], data=world[1], device="cpu"
    )
    return results
