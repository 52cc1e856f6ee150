"""Tiny files of COCO, VQA v2, Visual Genome and GQA, whose sentences name their image in COCO.

COCO has image 1 in train2014, 2 and 3 in val2014. Visual Genome has 1 as 105, 2 as 101, 3 as 102,
an image of its own as 103, and as 104 one of COCO (999) that no other file knows.
"""

import json
from pathlib import Path
from typing import Any

COCO_OF = {101: 2, 102: 3, 103: None, 104: 999, 105: 1}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_captions(folder: Path) -> Path:
    captions = {"train2014": [(1, "Cat 1."), (1, "Grass 1.")], "val2014": [(3, "Bus 3."), (2, " ")]}
    for part, rows in captions.items():
        annotations = [{"image_id": image, "caption": text, "id": 8} for image, text in rows]
        write(folder / f"captions_{part}.json", {"images": [], "annotations": annotations})
    return folder


def write_vqa(folder: Path) -> Path:
    """Question 20 has an answer in dispute: 7 of 10 say dog, 2 puppy, 1 cat."""
    dispute = ["dog"] * 7 + ["puppy"] * 2 + ["cat"]
    rows = {
        "train2014": [(10, 1, "Is it 1?", ["yes"] * 10)],
        "val2014": [(20, 2, "What is 2?", dispute), (30, 3, "Is it 3?", ["no"] * 10)],
    }
    for part, asked in rows.items():
        questions = [{"question_id": i, "image_id": j, "question": q} for i, j, q, _ in asked]
        annotations = [
            {
                "question_id": question_id,
                "answers": [{"answer": answer} for answer in answers],
                "multiple_choice_answer": answers[0],
                "answer_type": "other",
                "question_type": "is",
            }
            for question_id, _, _, answers in asked
        ]
        write(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", {"questions": questions})
        write(folder / f"v2_mscoco_{part}_annotations.json", {"annotations": annotations})
    return folder


def write_visual_genome(folder: Path) -> Path:
    images = [
        {
            "id": image_id,
            "qas": [
                {
                    "qa_id": image_id * 10,
                    "image_id": image_id,
                    "question": f"Where is {coco_id}?",
                    "answer": "On the grass.",
                }
            ],
        }
        for image_id, coco_id in COCO_OF.items()
    ]
    write(folder / "question_answers.json", images)
    data = [{"image_id": image_id, "coco_id": coco_id} for image_id, coco_id in COCO_OF.items()]
    write(folder / "image_data.json", data)
    return folder


def region(image_id: object, phrase: object) -> dict[str, object]:
    """Return a region as Visual Genome's file has it."""
    box = {"x": 4, "y": 0, "width": 90, "height": 71}
    return {"region_id": 1382, **box, "image_id": image_id, "phrase": phrase}


def write_regions(folder: Path) -> Path:
    """Write two phrases about each image, the second one twice."""
    phrases = ("the sky above {}", "grass of {}", "grass of {}")
    images = [
        {"id": image_id, "regions": [region(image_id, p.format(coco_id)) for p in phrases]}
        for image_id, coco_id in COCO_OF.items()
    ]
    write(folder / "region_descriptions.json", images)
    return folder


def write_gqa(folder: Path) -> Path:
    for split, image_ids in {"train_balanced": (101, 103, 105), "val_balanced": (102, 104)}.items():
        questions = {
            f"{image_id}7": {
                "question": f"Who is {COCO_OF[image_id]}?",
                "imageId": str(image_id),
                "answer": "A man",
                "isBalanced": True,
                "types": {"structural": "query", "semantic": "rel"},
            }
            for image_id in image_ids
        }
        write(folder / f"{split}_questions.json", questions)
    return folder
