"""Write the demo's data set, in the formats of VQA v2, COCO, Karpathy's splits and SNLI-VE.

And what a detector would find in its pictures, in that of bottom-up attention.
"""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..base.errors import UsageError, needs_extra
from ..base.machine import usable_cores
from .annotations import make_captions, make_pairs, make_questions
from .folder import complete_folder
from .regions import bottom_up_lines
from .scenes import Scene, make_scene

INFO = {"description": "scenes of colored shapes, drawn by clipfeat demo-data", "version": "1.0"}
LICENSE = {"name": "CC0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
TASK = "Open-Ended"
MIN_IMAGES, MAX_IMAGES = 10, 100_000
JPEG_QUALITY = 90
REGIONS = "regions.tsv"


def vqa_files(scenes: Sequence[Scene], seed: int) -> dict[str, Any]:
    """Return {official file name: content} of VQA v2's questions and annotations."""
    files: dict[str, Any] = {}
    for split in ("train2014", "val2014"):
        questions, annotations = [], []
        for scene in (s for s in scenes if s.split == split):
            for number, question in enumerate(make_questions(scene, seed)):
                ids = {"image_id": scene.image_id, "question_id": scene.image_id * 1000 + number}
                questions.append({**ids, "question": question.text})
                annotations.append(
                    {
                        **ids,
                        "question_type": question.question_type,
                        "answer_type": question.answer_type,
                        "multiple_choice_answer": question.answer,
                        "answers": [
                            {
                                "answer": answer,
                                "answer_confidence": "yes"
                                if answer == question.answer
                                else "maybe",
                                "answer_id": answer_id,
                            }
                            for answer_id, answer in enumerate(question.answers, start=1)
                        ],
                    }
                )
        about = {"info": INFO, "license": LICENSE, "data_type": "mscoco", "data_subtype": split}
        files[f"v2_OpenEnded_mscoco_{split}_questions.json"] = {
            **about,
            "task_type": TASK,
            "questions": questions,
        }
        files[f"v2_mscoco_{split}_annotations.json"] = {**about, "annotations": annotations}
    return files


def coco_caption_files(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return {official file name: content} of COCO's captions."""
    files: dict[str, Any] = {}
    for split in ("train2014", "val2014"):
        images, annotations = [], []
        for scene in (s for s in scenes if s.split == split):
            size = {"width": scene.width, "height": scene.height}
            images.append({"id": scene.image_id, "file_name": scene.file_name, **size})
            annotations += [
                {"id": scene.image_id * 10 + n, "image_id": scene.image_id, "caption": caption}
                for n, caption in enumerate(make_captions(scene))
            ]
        files[f"captions_{split}.json"] = {
            "info": INFO,
            "licenses": [LICENSE],
            "images": images,
            "annotations": annotations,
        }
    return files


def karpathy_file(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return the content of `dataset_coco.json` as Karpathy's splits have it."""
    images = []
    for imgid, scene in enumerate(scenes):
        sentences = [
            {
                "tokens": re.findall(r"[a-z0-9]+", caption.lower()),
                "raw": caption,
                "imgid": imgid,
                "sentid": imgid * 5 + n,
            }
            for n, caption in enumerate(make_captions(scene))
        ]
        images.append(
            {
                "filepath": "images",
                "filename": scene.file_name,
                "imgid": imgid,
                "cocoid": scene.image_id,
                "split": karpathy_split(scene),
                "sentids": [sentence["sentid"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    return {"dataset": "coco", "images": images}


def karpathy_split(scene: Scene) -> str:
    """Return train or restval for training images, val or test for held-out ones."""
    half = scene.image_id // 5 % 2
    return ("val", "test")[half] if scene.is_val else ("train", "restval")[half]


def snli_ve_files(scenes: Sequence[Scene], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return {official file name: rows} of SNLI-VE."""
    names = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
    files: dict[str, list[dict[str, Any]]] = {
        f"snli_ve_{split}.jsonl": [] for split in ("train", "dev", "test")
    }
    for scene in scenes:
        rows = files[f"snli_ve_{names[karpathy_split(scene)]}.jsonl"]
        rows.extend(_snli_ve_rows(scene, seed))
    return files


def _snli_ve_rows(scene: Scene, seed: int) -> Iterator[dict[str, Any]]:
    captions = make_captions(scene)
    for number, pair in enumerate(make_pairs(scene, seed)):
        caption_id = f"{scene.file_name}#{captions.index(pair.premise)}"
        yield {
            "annotator_labels": list(pair.annotator_labels),
            "captionID": caption_id,
            "Flickr30K_ID": scene.file_name.removesuffix(".jpg"),
            "gold_label": pair.gold_label,
            "pairID": f"{caption_id}r{number}{pair.annotator_labels[0][0]}",
            "sentence1": pair.premise,
            "sentence2": pair.hypothesis,
        }


@dataclass(frozen=True)
class DemoData:
    """What was written."""

    folder: Path
    images: int
    held_out: int
    questions: int


def write_demo_data(folder: Path, images: int, seed: int) -> DemoData:
    """Draw `images` scenes into `folder` with all annotations, completely or not at all.

    Raises UsageError if there are too few or too many (E-DEMO-IMAGES), the folder is not empty
    (E-DEMO-FOLDER), or Pillow is not installed.
    """
    if not MIN_IMAGES <= images <= MAX_IMAGES:
        raise UsageError(
            f"--images {images}: expected {MIN_IMAGES} to {MAX_IMAGES}", code="E-DEMO-IMAGES"
        )
    with needs_extra("demo"):
        from .scenes import draw

    with complete_folder(folder) as unfinished:
        (unfinished / "images").mkdir()
        scenes = [make_scene(seed, image_id) for image_id in range(1, images + 1)]

        def write_picture(scene: Scene) -> None:
            draw(scene, seed).save(unfinished / "images" / scene.file_name, quality=JPEG_QUALITY)

        with ThreadPoolExecutor(usable_cores()) as threads:
            done = threads.map(write_picture, scenes)
            list(tqdm(done, "scenes", images, unit="image", disable=None))
        vqa = vqa_files(scenes, seed)
        _write_json(unfinished / "vqa", vqa)
        karpathy = {"dataset_coco.json": karpathy_file(scenes)}
        _write_json(unfinished / "captions", {**coco_caption_files(scenes), **karpathy})
        _write_json_lines(unfinished / "snli_ve", snli_ve_files(scenes, seed))
        with (unfinished / REGIONS).open("w", encoding="ascii") as file:
            file.writelines(bottom_up_lines(scenes, seed))
    questions = sum(len(content.get("questions", ())) for content in vqa.values())
    return DemoData(folder, images, sum(scene.is_val for scene in scenes), questions)


def _write_json(folder: Path, files: dict[str, Any]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def _write_json_lines(folder: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    folder.mkdir()
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
