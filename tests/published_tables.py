"""Feature tables as the published programs write and read them, restated with csv, json and base64."""

import base64
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


def wide_rows(file: Iterable[str], names: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table with tabs between values of any length, as these readers do."""
    limit = csv.field_size_limit(sys.maxsize)  # of the process
    try:
        return list(csv.DictReader(file, names, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)


BOTTOM_UP = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
LXMERT = [
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
]
VLN = ["scanId", "viewpointId", "image_w", "image_h", "vfov", "features"]


class Regions(NamedTuple):
    """What a detector says of an image."""

    image_id: str
    width: int
    height: int
    features: np.ndarray  # (region, dim) float32
    boxes: np.ndarray  # (region, 4) float32, pixels
    classes: np.ndarray  # (region,) int64
    scores: np.ndarray  # (region,) float32


def some_regions(ids: Iterable[str], dim: int = 8, most: int = 5) -> list[Regions]:
    """Return random regions, 1 to `most` of each image."""
    rng = np.random.default_rng(0)
    found = []
    for image_id in ids:
        n = int(rng.integers(1, most + 1))
        width, height = map(int, rng.integers(300, 641, 2))
        corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1) * (width, height)
        found.append(
            Regions(
                image_id,
                width,
                height,
                rng.standard_normal((n, dim)).astype(np.float32),
                corners.reshape(n, 4).astype(np.float32),
                rng.integers(0, 1600, n),
                rng.uniform(0, 1, n).astype(np.float32),
            )
        )
    return found


def b64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def write_bottom_up(path: Path, images: Iterable[Regions]) -> Path:
    """Write rows as bottom-up-attention's generate_tsv.py does; csv ends lines with CR LF."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=BOTTOM_UP)
        for image in images:
            writer.writerow(
                {
                    "image_id": image.image_id,
                    "image_w": image.width,
                    "image_h": image.height,
                    "num_boxes": len(image.boxes),
                    "boxes": b64(image.boxes),
                    "features": b64(image.features),
                }
            )
    return path


def read_bottom_up(path: Path) -> dict[str, dict[str, Any]]:
    """Read rows as bottom-up-attention's read_tsv.py does, but for the type of the id."""
    rows = {}
    with path.open(newline="") as file:
        for item in wide_rows(file, BOTTOM_UP):
            count = int(item["num_boxes"])
            rows[item["image_id"]] = {
                "size": (int(item["image_w"]), int(item["image_h"])),
                **{
                    key: np.frombuffer(base64.b64decode(item[key]), np.float32).reshape(count, -1)
                    for key in ("boxes", "features")
                },
            }
    return rows


def write_lxmert(path: Path, images: Iterable[Regions]) -> Path:
    """Write rows as LXMERT's load_obj_tsv reads them, with attributes."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LXMERT, delimiter="\t", lineterminator="\n")
        for image in images:
            attributes = np.arange(len(image.boxes))
            writer.writerow(
                {
                    "img_id": image.image_id,
                    "img_h": image.height,
                    "img_w": image.width,
                    "objects_id": b64(image.classes.astype(np.int64)),
                    "objects_conf": b64(image.scores),
                    "attrs_id": b64(attributes.astype(np.int64)),
                    "attrs_conf": b64(attributes.astype(np.float32)),
                    "num_boxes": len(image.boxes),
                    "boxes": b64(image.boxes),
                    "features": b64(image.features),
                }
            )
    return path


def read_lxmert(path: Path) -> dict[str, dict[str, Any]]:
    """Read rows as LXMERT's load_obj_tsv does."""
    rows = {}
    with path.open() as file:
        for row in wide_rows(file, LXMERT):
            item: dict[str, Any] = {**row}
            for key in ("img_h", "img_w", "num_boxes"):
                item[key] = int(item[key])
            boxes = item["num_boxes"]
            decoded: list[tuple[str, tuple[int, ...], Any]] = [
                ("objects_id", (boxes,), np.int64),
                ("objects_conf", (boxes,), np.float32),
                ("attrs_id", (boxes,), np.int64),
                ("attrs_conf", (boxes,), np.float32),
                ("boxes", (boxes, 4), np.float32),
                ("features", (boxes, -1), np.float32),
            ]
            for key, shape, dtype in decoded:
                item[key] = np.frombuffer(base64.b64decode(item[key]), dtype=dtype).reshape(shape)
            rows[item["img_id"]] = item
    return rows


def geometry(image: Regions) -> np.ndarray:
    """Return the six numbers of each box as Oscar's authors compute them."""
    left, top, right, bottom = image.boxes.astype(float).T
    x, y = left / image.width, top / image.height
    width, height = (right - left) / image.width, (bottom - top) / image.height
    return np.stack([x, y, x + width, y + height, width, height], axis=1).astype(np.float32)


def write_vinvl(path: Path, images: Iterable[Regions], *, columns: int = 2) -> Path:
    """Write rows of VinVL: an id and JSON, or of its larger files an id, a count and base64."""
    with path.open("w") as file:
        for image in images:
            features = b64(np.concatenate([image.features, geometry(image)], axis=1))
            values = [json.dumps({"num_boxes": len(image.boxes), "features": features})]
            if columns == 3:
                values = [str(len(image.boxes)), features]
            file.write("\t".join([image.image_id, *values]) + "\n")
    return path


def read_vinvl(path: Path) -> dict[str, np.ndarray]:
    """Read rows as Oscar's tsv_file.py and run_captioning.py do, by the offsets in .lineidx."""
    offsets = [int(line.strip()) for line in path.with_suffix(".lineidx").open()]
    rows = {}
    with path.open() as file:
        for offset in offsets:
            file.seek(offset)
            key, text = (value.strip() for value in file.readline().split("\t"))
            info = json.loads(text)
            numbers = np.frombuffer(base64.b64decode(info["features"]), np.float32)
            rows[key] = numbers.reshape(info["num_boxes"], -1)
    return rows


def write_vln(path: Path, views: dict[tuple[str, str], np.ndarray]) -> Path:
    """Write {(scan, viewpoint): (36, dim) float32} as the precompute scripts of R2R codes do."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=VLN)
        for (scan, viewpoint), features in views.items():
            values = (scan, viewpoint, 640, 480, 60, b64(features))
            writer.writerow(dict(zip(VLN, values, strict=True)))
    return path


def read_vln(path: Path) -> dict[str, np.ndarray]:
    """Read rows as the agents of R2R codes do."""
    features = {}
    with path.open() as file:
        for item in wide_rows(file, VLN):
            assert (item["image_w"], item["image_h"], item["vfov"]) == ("640", "480", "60")
            numbers = np.frombuffer(base64.b64decode(item["features"].encode()), np.float32)
            features[item["scanId"] + "_" + item["viewpointId"]] = numbers.reshape(36, -1)
    return features
