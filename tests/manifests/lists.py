"""Small data sets in the formats of the well-known large ones."""

import json
from pathlib import Path
from typing import Any

from logged import logged
from pictures import photograph

from clipfeat.manifests import Manifest, SourceOptions, make_manifest


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def picture(path: Path, width: int = 64, height: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(0, width, height).save(path)
    return path


def coco(numbers: Any, split: str = "train2014") -> dict[str, Any]:
    """Return the content of an instances_*.json of COCO 2014, with images of 64 x 48."""
    images = [
        {
            "license": 5,
            "file_name": f"COCO_{split}_{k:012}.jpg",
            "coco_url": "http://example.org/x.jpg",
            "height": 48,
            "width": 64,
            "id": k,
        }
        for k in numbers
    ]
    annotations = [{"id": k, "image_id": k, "segmentation": [[1.5, 2.5]]} for k in numbers]
    return {"info": {}, "images": images, "annotations": annotations, "licenses": []}


def made(
    *sources: Path, root: Path | str | None = None, **options: Any
) -> tuple[Manifest, list[str]]:
    """Return the manifest of sources and what was logged."""
    with logged() as said:
        manifest = make_manifest(sources, str(root) if root else None, SourceOptions(**options))
    return manifest, said
