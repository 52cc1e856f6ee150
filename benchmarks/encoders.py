"""The shape of the paper's comparison on the demo: encoders by tasks, three seeds, with intervals.

make bench-encoders                 # or: BENCH="--seeds 0"

Rows: an untrained RN50, EfficientNet-Lite0 with ImageNet's weights (the demo's own store), the regions
of the demo's generated detector, and the blind twin, which sees no features. Columns: VQA, visual
entailment, captions by cross-entropy and after self-critical training. All as the command line does,
one thread each, with the default settings; about two hours. What is finished is not made again.
Prints the table as Markdown, and draws DEMO/encoders.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipfeat.train.figures import BLUE, FAINT, INK, new_figure, save

from .command import clipfeat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STORES = {"RN50, untrained": "rn50", "EfficientNet-Lite0": "scenes", "regions": "regions"}
BLIND = "blind"
TASKS = {  # preset and data of each
    "vqa": ("default", "vqa"),
    "ve": ("demo", "snli_ve"),
    "caption": ("demo", "captions"),
}
COLUMNS = {  # of the picture, in the order of the table
    "VQA accuracy, %": ("vqa", ""),
    "entailment accuracy, %": ("ve", ""),
    "captions, 100 x CIDEr-D": ("caption", "xe"),
    "captions after SCST": ("caption", "scst"),
}


def make_stores(demo: Path) -> None:
    """Make the two stores that `make demo` does not make, unless they are there."""
    rn50, regions = demo / "rn50.clipfeat", demo / "regions.clipfeat"
    if not (rn50 / "store.json").exists():
        images = ("--images", demo / "data" / "images", "--recipe", "square:160", "--out", rn50)
        clipfeat("extract", "--model", "RN50", "--pretrained", "none", *images)
    if not (regions / "store.json").exists():
        source = demo / "data" / "regions.tsv"
        clipfeat("import", source, "--as", "bottom-up-tsv", "--out", regions)


def train(demo: Path, encoder: str, task: str, seed: int) -> Path:
    """Return the run folder of a training, which goes on where it was interrupted."""
    store = STORES.get(encoder, "scenes")
    name = BLIND if encoder == BLIND else store
    run = demo / "encoders" / f"{name}-{task}-{seed}"
    preset, data = TASKS[task]
    sets = ["--set", f"seed={seed}", *(("--set", "blind=true") if encoder == BLIND else ())]
    paths = ("--store", demo / f"{store}.clipfeat", "--data", demo / "data" / data, "--out", run)
    clipfeat("train", task, preset, *paths, *sets, "--device", "cpu", "--json")
    return run


def draw(cells: Sequence[dict[str, Any]], columns: int, rows: Sequence[str], out: Path) -> None:
    """Draw a panel for each column: each encoder's mean over seeds, and its seeds as dots."""
    figure = new_figure(3.1 * columns, 0.5 * len(rows) + 1.1)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for number, (axis, title) in enumerate(zip(axes, COLUMNS, strict=True)):
        scores = [
            [run["score"] for run in cell["seeds"]] for cell in cells if cell["task"] == number
        ]
        _draw_column(axis, scores, rows if number == 0 else [""] * len(rows))
        axis.set_title(title, fontsize=10, color=INK)
    save(figure, out, dpi=90)


def _draw_column(axis: "Axes", scores: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    places = np.arange(len(scores))[::-1]
    means = [float(np.mean(seeds)) for seeds in scores]
    axis.barh(places, means, height=0.62, color=BLUE, alpha=0.25)
    for place, seeds, mean in zip(places, scores, means, strict=True):
        axis.plot(seeds, [place] * len(seeds), "o", color=BLUE, markersize=4)
        axis.text(max(seeds), place, f"  {mean:.1f}", va="center", fontsize=9, color=INK)
    axis.set_yticks(places, names, fontsize=10, color=INK)
    axis.set_xlim(0, 1.22 * max(map(max, scores)))
    axis.tick_params(axis="x", labelsize=8, colors=FAINT)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    demo: Path = arguments.demo
    make_stores(demo)
    encoders = [*STORES, BLIND]
    runs: list[Path] = []
    for task, stage in COLUMNS.values():
        for encoder in encoders:
            runs += [train(demo, encoder, task, seed) / stage for seed in arguments.seeds]
    print(clipfeat("compare", *runs, "--table", "markdown"))
    table = json.loads(clipfeat("compare", *runs, "--table", "text", "--json"))
    draw(table["cells"], len(COLUMNS), encoders, demo / "encoders.png")


if __name__ == "__main__":
    main()
