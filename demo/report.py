"""The report on a demo run: a table of numbers, and a picture of scenes, grids and attention."""

import argparse
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.text import tell
from ..featstore import FeatureStore
from ..train.attention_maps import grid_colors, read_image, show, show_lit
from ..train.figures import GREEN, INK, bare, new_figure, save
from ..train.tasks.vqa_predict import answer, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RIGHT, WRONG = GREEN, "#b42318"
RUN, BLIND_RUN = "demo-vqa", "demo-vqa-blind"
MIN_GAIN = 25.0  # points of VQA accuracy that the features must add
SCENES = 1200  # of the whole demo
SAMPLE = 64  # records from which the size of npz files is estimated
SCENES_SHOWN = 4
QUESTIONS_SHOWN = (0, 2)  # of those about a scene: one by shape and one by position


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with the model's answer."""

    text: str
    answer: str
    truth: str
    attention: np.ndarray  # (row, col), sums to 1


@dataclass(frozen=True)
class ShownScene:
    """A scene of the picture."""

    image: Path
    grid: np.ndarray  # (row, col, dim)
    questions: tuple[AnsweredQuestion, ...]


def draw_picture(scenes: list[ShownScene], out: Path) -> None:
    """Write the picture as a PNG file, with a column for each scene."""
    rows = 2 + max(len(scene.questions) for scene in scenes)
    figure = new_figure(2.9 * len(scenes), 3.05 * rows)
    axes = figure.subplots(rows, len(scenes), squeeze=False)
    for axis in axes.flat:
        bare(axis)
    all_colors = grid_colors([scene.grid for scene in scenes])
    for column, (scene, colors) in enumerate(zip(scenes, all_colors, strict=True)):
        picture = read_image(scene.image)
        show(axes[0, column], picture)
        axes[1, column].imshow(colors, aspect=_aspect(picture, colors))
        for row, question in enumerate(scene.questions, start=2):
            _draw_question(axes[row, column], picture, question)
    names = ("scene", "its grid of features", *["attention"] * (rows - 2))
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=11, color=INK)
    save(figure, out, dpi=80)


def _draw_question(axis: "Axes", picture: np.ndarray, question: AnsweredQuestion) -> None:
    """Draw the scene, bright where the attention is, under the question and its answer."""
    show_lit(axis, picture, question.attention)
    right = question.answer == question.truth
    verdict = question.answer if right else f"{question.answer} (it is {question.truth})"
    axis.set_title(question.text, fontsize=9.5, color=INK, pad=16)
    axis.text(
        0.5, 1.015, verdict, transform=axis.transAxes, ha="center", va="bottom",
        fontsize=10, fontweight="bold", color=RIGHT if right else WRONG,
    )  # fmt: skip


def _aspect(picture: np.ndarray, colors: np.ndarray) -> float:
    """Return height / width of a cell, so that the grid has the shape of the picture."""
    return (picture.shape[0] / colors.shape[0]) / (picture.shape[1] / colors.shape[1])


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
        """Return whether the features add too little, in a demo of full size."""
        return self.gain < MIN_GAIN and self.images >= SCENES

    def table(self) -> str:
        """Return the table that `make demo` prints at its end."""
        weights = {"none": "random weights", "package": "weights of a Python package"}
        rows = [
            (
                f"images ({self.model}, {weights.get(self.weights, self.weights)})",
                f"{self.images:,}",
            ),
            ("images/s, files to finished store", f"{self.images_per_second:.1f}"),
            ("store", f"{self.store_bytes / 1e6:.1f} MB"),
            ("the same as float32 npz", f"{self.npz_bytes / 1e6:.1f} MB (estimated)"),
            ("store / npz", f"{self.store_bytes / self.npz_bytes:.2f}"),
            (f"VQA accuracy, {self.questions:,} held-out questions", f"{self.accuracy:.1f} %"),
            ("the same without features (zeros)", f"{self.blind_accuracy:.1f} %"),
            ("gain by the features", f"{self.gain:.1f} points"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>18}" for name, value in rows)


def make_report(folder: Path) -> Report:
    """Return the numbers of the demo run in `folder`."""
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
    """Return the size of the store's grids as float32 npz files, estimated from a sample."""
    ids = store.ids[:: max(1, len(store) // SAMPLE)]
    total = 0
    for image_id in ids:
        file = io.BytesIO()
        np.savez_compressed(file, feat=store[image_id].astype(np.float32))
        total += file.tell()
    return total * len(store) // len(ids)


def shown_scenes(folder: Path) -> list[ShownScene]:
    """Return the first held-out scenes with enough questions, and the model's answers."""
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
    shown: list[ShownScene] = []
    for scene_questions in chosen:
        image_id = f"COCO_val2014_{scene_questions[0]['image_id']:012}"
        answered: list[AnsweredQuestion] = []
        for question in (scene_questions[number] for number in QUESTIONS_SHOWN):
            given = answer(run, store, image_id, question["question"])
            right = truth[question["question_id"]]
            answered.append(
                AnsweredQuestion(question["question"], given.answer, right, given.attention)
            )
        image = data / "images" / f"{image_id}.jpg"
        shown.append(ShownScene(image, store[image_id], tuple(answered)))
    return shown


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Report on a demo run.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    report = make_report(folder)
    draw_picture(shown_scenes(folder), folder / "demo.png")
    tell(f"{report.table()}\npicture: {folder / 'demo.png'}")
    expected = f"a gain of {MIN_GAIN} points is expected with {SCENES:,} scenes"
    if report.is_too_low:
        sys.exit(f"Error: {expected}; got {report.gain:.1f}")
    if report.gain < MIN_GAIN:
        tell(f"{expected}; fewer scenes give less")


if __name__ == "__main__":
    main()
