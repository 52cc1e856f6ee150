"""Write generated houses: views, connectivity files, and paths with instructions in R2R's format."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..base.errors import UsageError
from ..base.machine import usable_cores
from ..train.navigation.graphs import SUFFIX
from .folder import complete_folder
from .house_views import draw_views
from .houses import (
    EYE,
    FEWEST_SIDE,
    MOST_SIDE,
    House,
    Path,
    Place,
    house_generator,
    make_house,
    make_paths,
)

MIN_HOUSES, MAX_HOUSES = 2, 1000
UNSEEN_EVERY = 5  # of so many houses one is unseen in training, the last ones
SEEN_EVERY = 8  # of so many paths of a training house one is held out
JPEG_QUALITY = 90
# A small ViT in open_clip's format: ViT-S-32, for pictures of 96 pixels. On a CPU a view takes it 11 ms, and
# 35 ms at the usual 224.
ENCODER = {
    "embed_dim": 384,
    "vision_cfg": {"image_size": 96, "layers": 12, "width": 384, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 12},
}
SPLITS = ("train", "val_seen", "val_unseen")


@dataclass(frozen=True)
class Houses:
    """What was written."""

    folder: FilePath
    houses: int
    unseen: int  # of them
    viewpoints: int
    instructions: dict[str, int]  # {split: their number}


def connectivity(house: House) -> list[dict[str, Any]]:
    """Return the content of a house's connectivity file, as the Matterport3D simulator's."""
    linked = [[False] * len(house.places) for _ in house.places]
    for a, b in house.edges:
        linked[a][b] = linked[b][a] = True
    return [
        {
            "image_id": place.name,
            "pose": [1, 0, 0, place.x, 0, 1, 0, place.y, 0, 0, 1, EYE, 0, 0, 0, 1],
            "included": True,
            "visible": row,
            "unobstructed": row,
            "height": EYE,
        }
        for place, row in zip(house.places, linked, strict=True)
    ]


def r2r_files(houses: Sequence[House], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return {split: records}: the last houses are val_unseen's; the others share their paths.

    Of each training house, one path of SEEN_EVERY is val_seen's and the others are train's.
    """
    files: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    path_id = 0
    for number, house in enumerate(houses):
        for n, path in enumerate(make_paths(house, seed, number)):
            held_out = "val_seen" if n % SEEN_EVERY == 0 else "train"
            split = "val_unseen" if number >= len(houses) - unseen_houses(len(houses)) else held_out
            files[split].append(_record(house, path, path_id))
            path_id += 1
    return files


def unseen_houses(houses: int) -> int:
    """Return how many of so many houses are unseen in training: at least one."""
    return max(1, houses // UNSEEN_EVERY)


def _record(house: House, path: Path, path_id: int) -> dict[str, Any]:
    return {
        "distance": round(path.metres, 2),
        "scan": house.name,
        "path_id": path_id,
        "path": list(path.viewpoints),
        "heading": path.heading,
        "instructions": list(path.texts),
    }


def write_houses(folder: FilePath, houses: int, rooms: int, seed: int) -> Houses:
    """Draw `houses` houses of `rooms` x `rooms` rooms into `folder`, completely or not at all.

    Raises UsageError if there are too few or too many houses or rooms (E-DEMO-HOUSES), or the folder
    is not empty (E-DEMO-FOLDER).
    """
    if not MIN_HOUSES <= houses <= MAX_HOUSES:
        raise UsageError(
            f"--houses {houses}: expected {MIN_HOUSES} to {MAX_HOUSES}; one is unseen in training",
            code="E-DEMO-HOUSES",
        )
    if not FEWEST_SIDE <= rooms <= MOST_SIDE:
        raise UsageError(
            f"--rooms {rooms}: expected {FEWEST_SIDE} to {MOST_SIDE} along a side",
            code="E-DEMO-HOUSES",
        )
    made = [make_house(seed, number, rooms) for number in range(houses)]
    with complete_folder(folder) as unfinished:
        _write_views(unfinished / "views", made, seed)
        graphs = unfinished / "connectivity"
        graphs.mkdir()
        for house in made:
            (graphs / f"{house.name}{SUFFIX}").write_text(json.dumps(connectivity(house)))
        (graphs / "scans.txt").write_text("".join(f"{house.name}\n" for house in made))
        (unfinished / "encoder.json").write_text(json.dumps(ENCODER, indent=2) + "\n")
        files = r2r_files(made, seed)
        (unfinished / "r2r").mkdir()
        for split, records in files.items():
            (unfinished / "r2r" / f"R2R_{split}.json").write_text(json.dumps(records))
    return Houses(
        folder,
        houses,
        unseen_houses(houses),
        sum(len(house.places) for house in made),
        {
            split: sum(len(record["instructions"]) for record in records)
            for split, records in files.items()
        },
    )


def _write_views(folder: FilePath, houses: Sequence[House], seed: int) -> None:
    """Write folder/SCAN/VIEWPOINT/00.jpg to 35.jpg of all viewpoints."""

    def write(job: tuple[int, House, int, Place]) -> None:
        number, house, place_number, place = job
        views = draw_views(house, place, house_generator(seed, number, 2 + place_number))
        to = folder / house.name / place.name
        to.mkdir(parents=True)
        for view, pixels in enumerate(views):
            Image.fromarray(pixels).save(to / f"{view:02}.jpg", quality=JPEG_QUALITY)

    jobs = list(_viewpoints(houses))
    with ThreadPoolExecutor(usable_cores()) as threads:
        done = threads.map(write, jobs)
        list(tqdm(done, "viewpoints", len(jobs), unit="viewpoint", disable=None))


def _viewpoints(houses: Sequence[House]) -> Iterator[tuple[int, House, int, Place]]:
    for number, house in enumerate(houses):
        for place_number, place in enumerate(house.places):
            yield number, house, place_number, place
