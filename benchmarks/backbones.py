"""Print the table of image towers in docs/backbones.md.

python -m benchmarks.backbones

Every architecture that open_clip lists is built without memory, on torch's meta device, with two
blocks of its many, and computes one image of 3x5 cells and a remainder: the table says what came
out.
"""

import json
from collections import defaultdict
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower as build_vision_tower

from clipfeat.extract.backbones.tower import LAYERS, Tower, make_tower

HEADER = """\
| models | tower | cell | channels | native size | class token | layers | embedding |
|---|---|---|---|---|---|---|---|"""
ROWS, COLS = 3, 5


def table() -> str:
    """Return the table, models with equal image towers in one line."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in open_clip.list_models():
        config: Any = open_clip.get_model_config(name)
        names[json.dumps([config["vision_cfg"], config["embed_dim"]], sort_keys=True)].append(name)
    lines: dict[str, list[str]] = defaultdict(list)
    for alike in names.values():
        lines[describe(alike[0])] += alike
    return "\n".join([HEADER, *(f"| {', '.join(lines[line])} {line}" for line in lines)])


@torch.no_grad()
def describe(name: str) -> str:
    """Return what a tower is and gives, as the end of a line of the table."""
    config: Any = open_clip.get_model_config(name)
    with torch.device("meta"):
        # Without the text tower, which would take half of the time.
        quick_gelu = config.get("quick_gelu", False)
        visual: Any = build_vision_tower(config["embed_dim"], config["vision_cfg"], quick_gelu)
        size = visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        shorten(visual)
        tower = make_tower(visual, config["embed_dim"])
        assert tower is not None, f"{name} has no grid"
        check(tower)
    trunk = getattr(visual, "trunk", None)
    kind = f"timm {type(trunk).__name__}" if trunk else type(visual).__name__
    layers = "all" if tower.layers == LAYERS else ", ".join(tower.layers)
    token = "yes" if tower.has_class_token else "no"
    return (
        f"| {kind} | {tower.cell[0]}x{tower.cell[1]} | {tower.dim} | {height}x{width} | {token} "
        f"| {layers} | {tower.embedding_dim} |"
    )


def shorten(visual: Any) -> None:
    """Drop the blocks of a ViT after the second; they change no shape."""
    if hasattr(visual, "transformer"):
        visual.transformer.resblocks = visual.transformer.resblocks[:2]
    elif hasattr(getattr(visual, "trunk", None), "blocks"):
        visual.trunk.blocks = visual.trunk.blocks[:2]


def check(tower: Tower) -> None:
    """Check what a tower says of itself against what it computes, at a size that is not its own."""
    tower.positions.fit((ROWS, COLS))
    images = torch.zeros(1, 3, (ROWS + 1) * tower.cell[0] - 1, COLS * tower.cell[1] + 1)
    for layer in tower.layers:
        grid, vector = tower(images, layer, "embedding")
        assert grid.shape == (1, ROWS, COLS, tower.dim), grid.shape
        assert vector is not None
        assert vector.shape == (1, tower.embedding_dim), vector.shape


if __name__ == "__main__":
    print(table())
