"""The rehearsal of the rows: every command line end to end, on small data with small models.

The commands are those of `rows.py`, through the real command line. What is replaced, all of it here:
models by small ones with random weights, recipes by the same steps at a quarter of the size, numbers of
updates, texts and channels by small ones, and the BERT of the hub by none.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .rows import Row
from .small import write_small_data

TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 64,
    "width": 16,
    "heads": 1,
    "layers": 1,
}
RESNET = {"image_size": 224, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
VIT = {"image_size": 224, "layers": 3, "width": 64, "head_width": 16, "patch_size": 32}
# Models of clipfeat extract, by what takes their place: a config of open_clip, or a model of timm.
SMALL: dict[str, Any] = {
    "RN50": RESNET,
    "RN101": RESNET,
    "RN50x4": RESNET | {"width": 10},
    "ViT-B-32": VIT,
    "timm/resnet50.tv_in1k": "timm/test_resnet",
    "timm/resnet101.tv_in1k": "timm/test_resnet",
    "timm/vit_base_patch32_224.augreg_in21k": "timm/test_vit",
}
NARROW = ("model.hidden=32", "model.layers=1", "model.heads=2")
FOLLOWER = ("model.hidden=16", "min_count=1", "max_actions=4")
SETTINGS = {
    "pythia": ("model.hidden=16", "model.joint=32", "model.text_head=16", "model.image_head=16"),
    "movie_mcan": (*NARROW, "model.movie_layers=1", "model.joint=32"),
    "mcan_small": NARROW,
    "transformer": (*NARROW, "scst.updates=2", "scst.batch_size=4", "decoding.max_tokens=6"),
    "stage1": (*NARROW, "model.bert=", "model.vocab_size=300"),
    "r2r": (*FOLLOWER, "speaker={hidden=16, updates=2}", "back_translation={updates=2}"),
    "rxr": FOLLOWER,
}
OF_ALL = ("updates=2", "batch_size=8")


# Recipes of clipfeat extract, at a quarter of their size: the steps of FILE.toml, or a name.
RECIPES = {
    "vqa600": [
        {"step": "shortest-detectron2", "side": 150, "longest": 250, "interpolation": "bilinear"},
        {"step": "stretch", "height": 150, "width": 250, "interpolation": "bilinear"},
    ],
    "caption448": "square:112",
    "views": "views",
    "pretrain384": [
        {"step": "shortest-maskrcnn", "side": 96, "longest": 160, "interpolation": "bilinear"},
        {"step": "rgb"},
        {"step": "pad", "height": 96, "width": 160, "turn": True, "odd": "first"},
    ],
}


def prepare(folder: Path) -> None:
    """Make `folder`/data, the small public files, and `folder`/small, of models and recipes."""
    data, small = folder / "data", folder / "small"
    if not data.exists():
        unfinished = folder / "data.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_small_data(unfinished)
        unfinished.rename(data)
    small.mkdir(exist_ok=True)
    for name, config in SMALL.items():
        if isinstance(config, dict):
            towers = {"embed_dim": 16, "vision_cfg": config, "text_cfg": TEXT}
            (small / f"{name}.json").write_text(json.dumps(towers))
    for name, steps in RECIPES.items():
        if not isinstance(steps, str):
            (small / f"{name}.toml").write_text(_toml(name, steps))


def rewrite(words: Sequence[str], small: Path) -> list[str]:
    """Return a command line with small models and sizes; nothing else of it changes."""
    if words[:2] == ["clipfeat", "extract"]:
        return [*words[:2], *_extraction(words[2:], small)]
    if words[:2] == ["clipfeat", "train"]:
        return [*words, *(f"--set={each}" for each in (*OF_ALL, *SETTINGS.get(words[3], ())))]
    return list(words)


def _extraction(options: Sequence[str], small: Path) -> Iterator[str]:
    """Yield options of an extraction, which all have a value, with a small model and recipe."""
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "--model":
            config = SMALL[value]
            if isinstance(config, str):
                yield from ("--model", config)
            else:
                yield from ("--model-config", f"{small / value}.json")
            yield from ("--pretrained", "none")
        elif option == "--recipe":
            recipe = RECIPES[value]
            yield from (option, recipe if isinstance(recipe, str) else f"{small / value}.toml")
        elif option != "--pretrained":
            yield from (option, value)


def _toml(name: str, steps: list[dict[str, Any]]) -> str:
    """Return a recipe file; JSON's texts, numbers and words are TOML's too."""
    tables = (
        "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in step.items()) + "}"
        for step in steps
    )
    return f'name = "small-{name}"\nsteps = [{", ".join(tables)}]\n'


def newest_commit() -> str:
    """Return the hash of the newest commit; "" outside of a repository."""
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def sample(rows: Sequence[Row], count: int) -> list[Row]:
    """Return rows that the newest commit chooses, so that in time all of them are."""
    seed = newest_commit()
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row.name}".encode()).digest())
    return ranked[:count]
