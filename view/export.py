"""A static page of a sample of ids, for any web server: the page's files, and data that it fetches.

DIR/index.html, app.js, ...     the page; a meta element in it says where the data are
DIR/data/session.json           what is open, as /api/session says it
DIR/data/STORE/ids.json         the ids of the sample; each with the number of its file
DIR/data/STORE/NUMBER.json      record, colours and features of one id
DIR/data/images/NUMBER.ENDING   its image, if images are shown
"""

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError, UsageError
from ..base.files import write_atomically
from .app import PAGE, TYPES
from .colours import colours
from .explorer import Explorer, OpenStore, Query
from .ids import Entry

DATA = '<meta name="clipfeat-data" content="data/">'  # how the page knows that it is static
HEAD = "<head>"
ENDINGS = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/gif": ".gif"}


def export(explorer: Explorer, out: Path, count: int) -> dict[str, Any]:
    """Write a static page of `count` ids of the first store to `out`; return what was written.

    The ids are drawn at random among those with a record, the same at each call. Of the other stores
    the same ids are written, where they have a record. A corrupt record is left out and counted.
    Features are rounded to float16. Texts and runs need the weights, and are not part of the page.
    Raises UsageError for a folder that is not empty (E-VIEW-EXPORT), and where the page is not built
    (E-VIEW-PAGE).
    """
    files = {path.name: path.read_bytes() for path in PAGE.glob("*") if path.suffix in TYPES}
    index = files.pop("index.html", b"").decode()
    if HEAD not in index:
        raise UsageError(
            "the page of clipfeat view is not built; type make view-page in clipfeat's folder",
            code="E-VIEW-PAGE",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"--export {out} exists and is not an empty folder; choose another one",
            code="E-VIEW-EXPORT",
        )
    for name, content in files.items():
        _write(out / name, content)
    first = next(iter(explorer.stores.values()))
    sample = sorted(first.viewed.catalogue.with_record(count))
    images = _write_images(explorer, first, sample, out)
    written, corrupt = 0, 0
    for key, opened in explorer.stores.items():
        listed: list[dict[str, Any]] = []
        for number, image_id in enumerate(sample):
            try:
                entry, content = _record(opened, image_id)
            except MissingRecordError:
                continue
            except CorruptStoreError:
                corrupt += 1
                continue
            content["image"] = images.get(number)
            content["record"]["has_image"] = number in images
            _write_json(out / "data" / key / f"{number}.json", content)
            listed.append({**entry.to_json(), "n": number})
        _write_json(out / "data" / key / "ids.json", {"total": len(listed), "ids": listed})
        written += len(listed)
    _write_json(out / "data" / "session.json", _session(explorer, len(sample)))
    # The page comes last: with it the folder is complete.
    _write(out / "index.html", index.replace(HEAD, HEAD + DATA, 1).encode())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"folder": str(out), "records": written, "images": len(images), "corrupt": corrupt,
            "bytes": size}  # fmt: skip


def _session(explorer: Explorer, count: int) -> dict[str, Any]:
    """Return the session, without what needs a server."""
    session = explorer.session(Query({}))
    text = {"can": False, "why": "this page is a sample of a store; texts need clipfeat view"}
    stores = [{**store, "text": text, "location": Path(store["location"]).name}
              for store in session["stores"]]  # fmt: skip
    return {**session, "stores": stores, "runs": [], "static": True, "sample": count}


def _record(opened: OpenStore, image_id: str) -> tuple[Entry, dict[str, Any]]:
    """Return an id's entry, and the content of its file without the image."""
    entry = opened.viewed.catalogue.find(image_id)
    record = opened.viewed.record(entry.image_id)
    grid = opened.viewed.grid(entry.image_id)  # raises for an id without a record
    limit = np.finfo(np.float16).max
    features = grid.cells.clip(-limit, limit).astype("<f2")
    return entry, {
        "record": record,
        "colours": colours(opened.basis(), grid, "pca"),
        "features": {
            "dtype": "float16",
            "shape": [*features.shape],
            "base64": base64.b64encode(features.tobytes()).decode(),
        },
    }


def _write_images(
    explorer: Explorer, first: OpenStore, sample: list[str], out: Path
) -> dict[int, str]:
    """Write the images that can be had; return {number: path below `out`}."""
    written: dict[int, str] = {}
    if explorer.images is None:
        return written
    for number, image_id in enumerate(sample):
        try:
            content, kind = explorer.images.read(first.viewed.catalogue.find(image_id))
        except StoreError:  # there is none, or no browser could show it
            continue
        written[number] = f"data/images/{number}{ENDINGS[kind]}"
        _write(out / written[number], content)
    return written


def _write_json(path: Path, content: Any) -> None:
    _write(path, msgspec.json.encode(content))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
