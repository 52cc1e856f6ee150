"""A tiny VQA v2 world: grids with one coloured shape each, and questions about it."""

import json
from pathlib import Path

import numpy as np
from stores import make_store

from clipfeat.train.data.questions import QuestionSplit
from clipfeat.train.data.vocabulary import Vocabulary, build_words
from clipfeat.train.tasks.vqa import choose_answers

COLOURS = ("red", "green", "blue")
SHAPES = ((2, 3), (3, 3), (2, 2))  # rows, cols
DIM = 8
SCALE = 50.0  # features of real backbones are not near 1 either
FAST = (
    *("model.hidden=32", "model.embedding=16", "min_answer_count=1"),
    *("epochs=4", "batch_size=16", "log_every=1", "lr=1e-2"),
)


def scene(image_id: int) -> tuple[int, int, tuple[int, int]]:
    """Return (colour, cell, grid shape) of an image."""
    rows, cols = SHAPES[image_id % 3]
    return image_id % 7 % 3, image_id % 5 % (rows * cols), (rows, cols)


def grid(image_id: int) -> np.ndarray:
    """Return the features of an image: its colour in one cell, weak noise everywhere."""
    colour, cell, (rows, cols) = scene(image_id)
    features = np.random.default_rng(image_id).normal(0, 0.1, (rows * cols, DIM))
    features[cell, colour] += 2
    return (SCALE * features).reshape(rows, cols, DIM).astype(np.float16)


def questions_of(image_id: int) -> list[tuple[str, str, str, str]]:
    """Return (question, answer, answer type, question type) for each question of an image."""
    colour, cell, (_, cols) = scene(image_id)
    left = cell % cols == 0
    return [
        ("What colour is the shape?", COLOURS[colour], "other", "what colour"),
        ("Is the shape red?", "yes" if colour == 0 else "no", "yes/no", "is the"),
        ("Is the shape in the first column?", "yes" if left else "no", "yes/no", "is the"),
    ]


def write_split(data: Path, subset: str, image_ids: list[int], *, annotated: bool = True) -> None:
    """Write the official files of a split; one annotator in ten answers something else."""
    questions, annotations = [], []
    for image_id in image_ids:
        for number, (text, answer, answer_type, question_type) in enumerate(questions_of(image_id)):
            question = {"question_id": 10 * image_id + number, "image_id": image_id}
            answers = [{"answer": answer, "answer_id": n} for n in range(1, 10)]
            answers.append({"answer": "unsure", "answer_id": 10})
            questions.append(question | {"question": text})
            annotations.append(
                question
                | {"answers": answers, "multiple_choice_answer": answer}
                | {"answer_type": answer_type, "question_type": question_type}
            )
    data.mkdir(parents=True, exist_ok=True)
    name = data / f"v2_OpenEnded_mscoco_{subset}_questions.json"
    name.write_text(json.dumps({"questions": questions}))
    if annotated:
        name = data / f"v2_mscoco_{subset}_annotations.json"
        name.write_text(json.dumps({"annotations": annotations}))


def make_world(
    folder: Path, *, train: int = 24, val: int = 9, name: str = "COCO_{split}2014_{:012}"
) -> tuple[Path, Path]:
    """Write a store and official files under `folder`; return their paths."""
    image_ids = list(range(1, train + val + 1))
    records = {name.format(i, split="train" if i <= train else "val"): grid(i) for i in image_ids}
    store = make_store(folder / "world.clipfeat", records)
    write_split(folder / "vqa", "train2014", image_ids[:train])
    write_split(folder / "vqa", "val2014", image_ids[train:])
    return store, folder / "vqa"


def vocabulary_of(split: QuestionSplit) -> Vocabulary:
    """Return the words and all the answers of a split."""
    words = build_words(question.text for question in split.questions)
    return Vocabulary(words, choose_answers(split, min_answer_count=1))


def write_visual_genome(data: Path, image_ids: list[int]) -> None:
    """Write question_answers.json with one question an image."""
    images = []
    for image_id in image_ids:
        qa = {"qa_id": 10 * image_id, "image_id": image_id, "question": "What colour is it?"}
        answer = "Two green." if image_id == image_ids[0] else COLOURS[scene(image_id)[0]]
        images.append({"id": image_id, "qas": [qa | {"answer": answer, "a_objects": []}]})
    data.mkdir(parents=True, exist_ok=True)
    (data / "question_answers.json").write_text(json.dumps(images))


def write_gqa(path: Path, image_ids: list[int], *, answer: str | None = None) -> None:
    """Write a file of GQA's questions; the second question of an image entails the first."""
    questions = {}
    for image_id in image_ids:
        for number, (text, right, _, kind) in enumerate(questions_of(image_id)):
            questions[f"{10 * image_id + number}"] = {
                "question": text,
                "imageId": str(image_id),
                "answer": answer or right,
                "isBalanced": True,
                "types": {
                    "structural": "query" if kind == "what colour" else "verify",
                    "semantic": "attr",
                },
                "entailed": [f"{10 * image_id}"] if number == 1 else [],
            }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(questions))
