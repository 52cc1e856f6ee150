"""What lower precisions cost: grids in bfloat16 and float16 against those in float32, on the CPU.

python -m benchmarks.precision [--images 8] [--models RN50 RN50x4 ViT-B-32 ViT-L-14]

Random weights of seed 0, images with the entropy of photographs at 448x448. The cosine is of each
cell with itself in float32; the relative error is the norm of the difference of whole grids over
that of the float32 grids.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import make_recipe
from clipfeat.featstore.identity import Precision

from .photographs import write_photographs

MODELS = ["RN50", "RN50x4", "ViT-B-32", "ViT-L-14"]


def photographs(count: int, side: int = 448) -> Tensor:
    """Return (image, side, side, 3) uint8 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder) / "images", count, side, side)
        pixels = [np.asarray(Image.open(file)) for file in sorted(files.iterdir())]
    return torch.from_numpy(np.stack(pixels))


def grids(model: str, precision: Precision, pixels: Tensor) -> Tensor:
    """Return the grids of a model with random weights, as float32."""
    backbone, _ = load_backbone(BackboneSpec(model, "none", 0, precision), "cpu")
    recipe = make_recipe("square:448", backbone.native, backbone.cell)
    return torch.cat([backbone.grids(part, recipe)[0].float() for part in pixels.split(8)])


def deviation(low: Tensor, full: Tensor) -> tuple[float, float, float]:
    """Return the mean and the least cosine of the cells, and the relative error of the grids."""
    cosine = functional.cosine_similarity(low, full, dim=-1)
    error = (low - full).norm() / full.norm()
    return cosine.mean().item(), cosine.min().item(), error.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    pixels = photographs(arguments.images)
    print("| model | precision | mean cosine | least cosine | relative error |")
    print("|---|---|---|---|---|")
    for model in arguments.models:
        full = grids(model, "float32", pixels)
        for precision in ("bfloat16", "float16"):
            mean, least, error = deviation(grids(model, precision, pixels), full)
            print(f"| {model} | {precision} | {mean:.6f} | {least:.6f} | {error:.5f} |")


if __name__ == "__main__":
    main()
