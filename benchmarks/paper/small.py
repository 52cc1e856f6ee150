"""Small data with the names and in the formats of the public files, for the rehearsal of the rows.

Scenes of `clipfeat demo-data` stand for photographs. All models are replaced by small ones
(`rehearsal.py`).
"""

import base64
import dataclasses
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipfeat.demo.annotations import make_captions, make_questions
from clipfeat.demo.scenes import Scene, draw, make_scene
from clipfeat.demo.write import coco_caption_files, karpathy_file, snli_ve_files, vqa_files

SEED = 0
COCO = range(1, 41)  # every fifth is of val2014
TEST2015 = range(61, 65)
# Numbers that COCO's images have too, as in the real data sets. The first half are images of COCO.
VISUAL_GENOME = range(11, 19)
TESTDEV = range(2001, 2005)  # of GQA
HOUSES, ROOMS = ("seen", "unseen"), 6  # of Matterport3D; rooms stand in a row
REGIONS, DIM = 36, 32
GRIDS = ((5, 7), (7, 5))  # rows and columns of grid-feats: they differ by image


def write_small_data(data: Path) -> None:
    """Write all files of `files.FILES`, small, into the folder `data`."""
    scenes = [make_scene(SEED, number) for number in COCO]
    test = [make_scene(SEED, number) for number in TEST2015]
    shown = {
        "coco": [(f"{scene.split}/{scene.file_name}", scene) for scene in scenes]
        + [(f"test2015/{_test_name(scene)}", scene) for scene in test],
        "vg": [(_vg_path(number), _vg_scene(number)) for number in VISUAL_GENOME],
        "gqa/images": [
            (f"{number}.jpg", _vg_scene(number)) for number in (*VISUAL_GENOME, *TESTDEV)
        ],
        "flickr30k/flickr30k-images": [(_flickr(scene).file_name, scene) for scene in scenes],
    }
    for folder, pictures in shown.items():
        for name, scene in pictures:
            path = data / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(scene, SEED).save(path)
    for name, content in _json_files(scenes, test):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    _write_features(data, scenes, test)
    _write_houses(data)


def _test_name(scene: Scene) -> str:
    return f"COCO_test2015_{scene.image_id:012}.jpg"


def _vg_path(number: int) -> str:
    return f"VG_100K{'_2' if number % 2 else ''}/{number}.jpg"


def _vg_scene(number: int) -> Scene:
    coco = _coco_of(number)
    return make_scene(SEED, number if coco is None else coco)


def _coco_of(number: int) -> int | None:
    """Return the number in COCO of an image of Visual Genome."""
    place = number - VISUAL_GENOME.start
    return place + 1 if place < len(VISUAL_GENOME) // 2 else None


class _Flickr(Scene):
    """A scene with a name as Flickr30k has it."""

    @property
    def file_name(self) -> str:
        return f"{1_000_000_000 + self.image_id}.jpg"


def _flickr(scene: Scene) -> Scene:
    return _Flickr(**{each.name: getattr(scene, each.name) for each in dataclasses.fields(scene)})


def _json_files(scenes: list[Scene], test: list[Scene]) -> Iterator[tuple[str, Any]]:
    """Yield (name, content) of all files of texts."""
    for name, content in vqa_files(scenes, SEED).items():
        yield f"vqa/{name}", content
    asked = [
        {"image_id": scene.image_id, "question_id": scene.image_id * 1000 + n, "question": q.text}
        for scene in test
        for n, q in enumerate(make_questions(scene, SEED))
    ]
    yield "vqa/v2_OpenEnded_mscoco_test2015_questions.json", {"questions": asked}
    for name, content in coco_caption_files(scenes).items():
        yield f"captions/{name}", content
    karpathy = karpathy_file(scenes)
    for image in karpathy["images"]:
        image["filepath"] = image["filename"].split("_")[1]
    yield "captions/dataset_coco.json", karpathy
    for name, lines in snli_ve_files([_flickr(scene) for scene in scenes], SEED).items():
        yield f"snli_ve/{name}", "".join(json.dumps(line) + "\n" for line in lines)
    yield from _visual_genome()
    for split, numbers in (
        ("train_balanced", VISUAL_GENOME[:6]),
        ("val_balanced", VISUAL_GENOME[6:]),
        ("testdev_balanced", TESTDEV),
    ):
        yield f"gqa/{split}_questions.json", dict(_gqa(numbers))
    held_out = [scene for scene in scenes if scene.is_val][:4]
    yield (
        "lxmert/mscoco_minival.json",
        [{"img_id": Path(scene.file_name).stem, "sentf": {}, "labelf": {}} for scene in held_out],
    )
    words = sorted({word for q in asked for word in q["question"].lower().rstrip("?").split()})
    vectors = np.random.default_rng(SEED).normal(size=(len(words), 300)).round(3)
    yield (
        "glove/glove.6B.300d.txt",
        "".join(f"{w} {' '.join(map(str, v))}\n" for w, v in zip(words, vectors, strict=True)),
    )


def _visual_genome() -> Iterator[tuple[str, Any]]:
    images, answers, regions = [], [], []
    for number in VISUAL_GENOME:
        scene = _vg_scene(number)
        images.append(
            {
                "image_id": number,
                "url": f"https://cs.stanford.edu/people/rak248/{_vg_path(number)}",
                "width": scene.width,
                "height": scene.height,
                "coco_id": _coco_of(number),
                "flickr_id": None,
            }
        )
        answers.append(
            {
                "id": number,
                "qas": [
                    {"qa_id": number * 100 + n, "image_id": number} | _asked(q.text, q.answer)
                    for n, q in enumerate(make_questions(scene, SEED))
                ],
            }
        )
        regions.append(
            {
                "id": number,
                "regions": [
                    {"region_id": number * 100 + n, "image_id": number, "phrase": text}
                    | {"x": 0, "y": 0, "width": 9, "height": 9}
                    for n, text in enumerate(make_captions(scene)[:2])
                ],
            }
        )
    yield "vg/image_data.json", images
    yield "vg/question_answers.json", answers
    yield "vqa/question_answers.json", answers
    yield "vg/region_descriptions.json", regions


def _asked(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def _gqa(numbers: Iterable[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in numbers:
        for n, question in enumerate(make_questions(_vg_scene(number), SEED)):
            kind = "verify" if question.answer_type == "yes/no" else "query"
            yield (
                f"{number}{n}",
                {
                    "imageId": str(number),
                    **_asked(question.text, question.answer),
                    "isBalanced": True,
                    "types": {"structural": kind, "semantic": "attr", "detailed": kind},
                    "entailed": [],
                },
            )


def _write_features(data: Path, scenes: list[Scene], test: list[Scene]) -> None:
    """Write features of other programs: bottom-up's TSV, a line an image, and grid-feats' .pth."""
    import torch

    rng = np.random.default_rng(SEED)
    for part, several in (("trainval", scenes), ("test2015", test)):
        lines = []
        grids = data / "grid-feats" / part
        grids.mkdir(parents=True)
        for scene in several:
            corners = rng.uniform(0, 1, (REGIONS, 2, 2)) * [scene.width, scene.height]
            boxes = np.sort(corners, axis=1).reshape(REGIONS, 4).astype("<f4")
            features = np.maximum(rng.normal(size=(REGIONS, DIM)), 0).astype("<f4")
            numbers = (scene.image_id, scene.width, scene.height, REGIONS)
            texts = (base64.b64encode(array.tobytes()).decode() for array in (boxes, features))
            lines.append("\t".join([*map(str, numbers), *texts]) + "\n")
            grid = np.maximum(rng.normal(size=(1, DIM, *GRIDS[scene.image_id % 2])), 0)
            torch.save(torch.from_numpy(grid.astype(np.float32)), grids / f"{scene.image_id}.pth")
        (data / "bottom-up").mkdir(exist_ok=True)
        (data / "bottom-up" / f"{part}.tsv").write_text("".join(lines))


def _write_houses(data: Path) -> None:
    """Write houses whose pictures are one colour each, with their graphs, and paths of R2R and RxR in them."""
    rng = np.random.default_rng(SEED)
    (data / "mp3d" / "connectivity").mkdir(parents=True)
    for house in HOUSES:
        panoramas = [
            {
                "image_id": f"{house}{room}",
                "pose": [1, 0, 0, 2.5 * room, 0, 1, 0, 0.1 * room, 0, 0, 1, 1.5, 0, 0, 0, 1],
                "included": True,
                "unobstructed": [abs(room - other) == 1 for other in range(ROOMS)],
            }
            for room in range(ROOMS)
        ]
        graph = data / "mp3d" / "connectivity" / f"{house}_connectivity.json"
        graph.write_text(json.dumps(panoramas))
        for room in range(ROOMS):
            folder = data / "mp3d" / "views" / house / f"{house}{room}"
            folder.mkdir(parents=True)
            for view in range(36):
                colour = tuple(rng.integers(0, 2, 3) * 255)
                Image.new("RGB", (16, 12), colour).save(folder / f"{view}.jpg")
    splits = {"train": range(2), "val_seen": range(2, 3), "val_unseen": range(3), "test": range(3)}
    for folder in ("r2r", "rxr"):
        (data / folder).mkdir()
    for split, starts in splits.items():
        house = HOUSES[split in ("val_unseen", "test")]
        paths = [[f"{house}{room}" for room in range(start, start + 4)] for start in starts]
        shared = [
            {"scan": house, "path": path[:1] if split == "test" else path, "heading": 1.0}
            for path in paths
        ]
        texts = ["walk to the end .", "go straight on and wait ."]
        r2r = [
            each | {"path_id": f"{n}{split}", "instructions": texts}
            for n, each in enumerate(shared)
        ]
        (data / "r2r" / f"R2R_{split}.json").write_text(json.dumps(r2r))
        lines = [
            each
            | {"path_id": f"{n}{split}", "instruction_id": f"{n}{split}{language}"}
            | {"instruction": texts[0], "language": language}
            for n, each in enumerate(shared)
            for language in ("en-US", "hi-IN", "te-IN")
        ]
        if split != "test":
            content = "".join(json.dumps(line) + "\n" for line in lines)
            packed = gzip.compress(content.encode(), mtime=0)
            (data / "rxr" / f"rxr_{split}_guide.jsonl.gz").write_bytes(packed)
