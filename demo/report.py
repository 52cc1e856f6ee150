"""The demo's picture: scenes, their grids as colours, questions, answers and attention."""

import argparse
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.text import printable
from ..featstore import FeatureStore
from ..train.pictures.attention import grid_colors, read_image, show, show_lit
from ..train.pictures.canvas import GREEN, INK, bare, new_figure, save
from ..train.tasks.vqa_predict import answer, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RIGHT, WRONG = GREEN, "#b42318"


@dataclass(frozen=True)
class Asked:
    """One question with the model's answer."""

    question: str
    answer: str
    truth: str
    attention: np.ndarray  # (row, col), sums to 1


@dataclass(frozen=True)
class Shown:
    """One scene of the picture."""

    image: Path
    grid: np.ndarray  # (row, col, dim)
    asked: tuple[Asked, ...]


def draw_picture(scenes: list[Shown], out: Path) -> None:
    """Write the picture as a PNG: a column for each scene."""
    rows = 2 + max(len(scene.asked) for scene in scenes)
    figure = new_figure(2.9 * len(scenes), 3.05 * rows)
    axes = figure.subplots(rows, len(scenes), squeeze=False)
    for axis in axes.flat:
        bare(axis)
    all_colors = grid_colors([scene.grid for scene in scenes])
    for column, (scene, colors) in enumerate(zip(scenes, all_colors, strict=True)):
        picture = read_image(scene.image)
        show(axes[0, column], picture)
        axes[1, column].imshow(colors, aspect=_aspect(picture, colors))
        for row, asked in enumerate(scene.asked, start=2):
            _draw_asked(axes[row, column], picture, asked)
    names = ("scene", "its grid of features", *["attention"] * (rows - 2))
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=11, color=INK)
    save(figure, out, dpi=80)


def _draw_asked(axis: "Axes", picture: np.ndarray, asked: Asked) -> None:
    """Draw the scene lit where the model looks, under the question and its answer."""
    show_lit(axis, picture, asked.attention)
    right = asked.answer == asked.truth
    verdict = asked.answer if right else f"{asked.answer} (it is {asked.truth})"
    axis.set_title(asked.question, fontsize=9.5, color=INK, pad=16)
    axis.text(
        0.5, 1.015, verdict, transform=axis.transAxes, ha="center", va="bottom",
        fontsize=10, fontweight="bold", color=RIGHT if right else WRONG,
    )  # fmt: skip


def _aspect(picture: np.ndarray, colors: np.ndarray) -> float:
    """Return the height of a cell over its width, so that the grid has the picture's shape."""
    return (picture.shape[0] / colors.shape[0]) / (picture.shape[1] / colors.shape[1])


RUN, BLIND_RUN = "demo-vqa", "demo-vqa-blind"
LEAST_GAIN = 25.0  # points of VQA accuracy that the features must be worth
SCENES = 1200  # of the whole demo
SAMPLE = 64  # records that stand for the store when npz sizes are measured
SCENES_SHOWN = 4
QUESTIONS_SHOWN = (0, 2)  # of those about a scene: what stands where, by shape and by place


@dataclass(frozen=True)
class Report:
    """The numbers of the demo."""

    model: str
    weights: str
    images: int
    images_per_second: float
    store_bytes: int
    npz_bytes: int  # the same grids as float32 in numpy.savez_compressed files
    accuracy: float  # percent, official VQA accuracy on the held-out images
    blind_accuracy: float  # of the same model with the features zeroed
    questions: int

    @property
    def gain(self) -> float:
        return self.accuracy - self.blind_accuracy

    @property
    def is_too_low(self) -> bool:
        """Return whether the features of enough scenes are worth less than they should."""
        return self.gain < LEAST_GAIN and self.images >= SCENES

    def table(self) -> str:
        """Return the table that `make demo` ends with."""
        weights = "random weights" if self.weights == "none" else f"{self.weights} weights"
        rows = [
            (f"images ({self.model}, {weights})", f"{self.images:,}"),
            ("images/s, files to finished store", f"{self.images_per_second:.1f}"),
            ("store", f"{self.store_bytes / 1e6:.1f} MB"),
            ("the same as float32 npz", f"{self.npz_bytes / 1e6:.1f} MB (estimated)"),
            ("store / npz", f"{self.store_bytes / self.npz_bytes:.2f}"),
            (f"VQA accuracy, {self.questions:,} held-out questions", f"{self.accuracy:.1f} %"),
            ("the blind twin (features zeroed)", f"{self.blind_accuracy:.1f} %"),
            ("the features are worth", f"{self.gain:.1f} points"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>18}" for name, value in rows)


def make_report(folder: Path) -> Report:
    """Collect the numbers that a demo run left in `folder`."""
    store = FeatureStore.open(folder / "scenes.clipfeat")
    extracted = _read(folder / "extract.json")
    sighted, blind = (_read(folder / run / "result.json") for run in (RUN, BLIND_RUN))
    return Report(
        model=str(store.identity.backbone["model"]),
        weights=str(store.identity.backbone["pretrained"]),
        images=len(store),
        images_per_second=extracted["images_per_second"],
        store_bytes=sum(shard.bytes for shard in store.shards),
        npz_bytes=npz_bytes(store),
        accuracy=sighted["overall"],
        blind_accuracy=blind["overall"],
        questions=sighted["n"],
    )


def npz_bytes(store: FeatureStore) -> int:
    """Return what the store's grids would take as float32 npz files, from a sample of them."""
    ids = store.ids[:: max(1, len(store) // SAMPLE)]
    total = 0
    for image_id in ids:
        file = io.BytesIO()
        np.savez_compressed(file, feat=store[image_id].astype(np.float32))
        total += file.tell()
    return total * len(store) // len(ids)


def shown_scenes(folder: Path) -> list[Shown]:
    """Answer questions about the first held-out scenes that have enough of them."""
    store = FeatureStore.open(folder / "scenes.clipfeat")
    run = load_run(folder / RUN)
    data = folder / "data"
    questions = _read(data / "vqa/v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
    annotations = _read(data / "vqa/v2_mscoco_val2014_annotations.json")["annotations"]
    truth = {a["question_id"]: a["multiple_choice_answer"] for a in annotations}
    by_image: dict[int, list[Any]] = {}
    for question in questions:
        by_image.setdefault(question["image_id"], []).append(question)
    chosen = [q for q in by_image.values() if len(q) >= 4][:SCENES_SHOWN]
    shown = []
    for of_image in chosen:
        image_id = f"COCO_val2014_{of_image[0]['image_id']:012}"
        asked = []
        for question in (of_image[number] for number in QUESTIONS_SHOWN):
            given = answer(run, store, image_id, question["question"])
            right = truth[question["question_id"]]
            asked.append(Asked(question["question"], given.answer, right, given.attention))
        shown.append(Shown(data / "images" / f"{image_id}.jpg", store[image_id], tuple(asked)))
    return shown


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Report on a demo run.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    report = make_report(folder)
    draw_picture(shown_scenes(folder), folder / "demo.png")
    print(report.table())
    print(f"picture: {printable(str(folder / 'demo.png'))}")
    expected = f"{LEAST_GAIN} points are expected of {SCENES:,} scenes"
    if report.is_too_low:
        sys.exit(f"Error: {expected}, and the features are worth {report.gain:.1f}")
    if report.gain < LEAST_GAIN:
        print(f"{expected}; fewer teach less")


if __name__ == "__main__":
    main()
