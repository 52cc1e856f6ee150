"""Write the demo's pictures and annotations into a folder."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..base.errors import UsageError, needs_extra
from ..base.files import temporary_name
from ..base.machine import usable_cores
from .formats import coco_caption_files, karpathy_file, snli_ve_files, vqa_files
from .scenes import Scene, make_scene

FEWEST, MOST = 10, 100_000
JPEG_QUALITY = 90


@dataclass(frozen=True)
class DemoData:
    """What was written."""

    folder: Path
    images: int
    held_out: int
    questions: int


def write_demo_data(folder: Path, images: int, seed: int) -> DemoData:
    """Draw `images` scenes into `folder` with all their annotations; whole or not at all.

    Raises UsageError if the folder holds something already, or Pillow is not installed.
    """
    if not FEWEST <= images <= MOST:
        raise UsageError(f"--images {images}: expected {FEWEST} to {MOST}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; delete it or choose another DIR")
    with needs_extra("demo"):
        from .draw import draw

    # Everything goes into a folder beside, which takes the final name when it is whole.
    final = folder.resolve()
    unfinished = final.with_name(temporary_name(f".{final.name}"))
    (unfinished / "images").mkdir(parents=True)
    try:
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
        unfinished.replace(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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
