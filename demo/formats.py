"""Annotations in the formats that VQA v2, COCO, Karpathy's splits and SNLI-VE publish."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .captions import make_captions
from .entailment import make_pairs
from .questions import make_questions
from .scenes import Scene

INFO = {"description": "scenes of colored shapes, drawn by clipfeat demo-data", "version": "1.0"}
LICENSE = {"name": "CC0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
TASK = "Open-Ended"


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
