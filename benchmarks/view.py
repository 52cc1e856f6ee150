"""How fast the explorer answers: a page of ids, a hovered cell, nearest cells, a text.

python -m benchmarks.view [--ids N] [--images N] [--rounds N] [--text MODEL]

Requests go through the whole application, without a socket. Stores are made up and lie in the page
cache: a table of ids without features; grids of 14x14x2048, and of 7x7x2048 for the scan, float16,
zstd. The text is compared with random weights of a model, which take the time of trained ones; the
model is loaded with the first text.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from benchmarks.lookup import image_id, write_tables
from clipfeat.featstore import FeatureStore, GridShape, Identity
from clipfeat.featstore.writing.writer import write_store
from clipfeat.view.app import Access, make_app
from clipfeat.view.open import open_explorer

DIM = 2048
HOVERED = 64  # images of 14x14
PORT, TOKEN = 1, "token"


def client_of(store: Path) -> TestClient:
    """Return a client of an explorer of one store."""
    headers = {"x-clipfeat-token": TOKEN}
    app = make_app(open_explorer([store]), Access(PORT, TOKEN))
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=headers)


def ask(client: TestClient, path: str, **query: Any) -> Any:
    """Return the JSON of an answer; an error ends the benchmark."""
    answer = client.get(f"/api/{path}", params={"store": "a", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def write_grids(
    path: Path, images: int, shape: GridShape, backbone: dict[str, Any] | None = None
) -> FeatureStore:
    """Write a store of random grids, half of whose numbers are zeros, as after a ReLU."""
    random = np.random.default_rng(0)

    def grid(_: str) -> np.ndarray:
        return np.maximum(random.standard_normal((*shape, DIM), np.float32), 0).astype(np.float16)

    identity = Identity(
        backbone or {"model": "bench"}, {"name": "bench"}, "float32", "float16", "zstd", DIM, None
    )
    return write_store(path, identity, {image_id(k): shape for k in range(images)}, grid, 128)


def timed(name: str, act: Callable[[int], Any], rounds: int) -> None:
    """Print the first time of an answer, and the median and the longest of the others.

    Of the others also the processor time, which other processes on the machine hardly change.
    """
    times: list[float] = []
    used: list[float] = []
    for k in range(rounds + 1):
        start, before = time.perf_counter(), time.process_time()
        act(k)
        times.append(1000 * (time.perf_counter() - start))
        used.append(1000 * (time.process_time() - before))
    middle, longest = statistics.median(times[1:]), max(times[1:])
    print(
        f"{name:<44} first {times[0]:8.1f} ms, then {middle:7.1f} (at most {longest:.1f}); "
        f"processor {used[0]:.1f}, then {statistics.median(used[1:]):.1f}",
        flush=True,
    )


def measure_ids(folder: Path, ids: int, rounds: int) -> None:
    """Measure opening a store, and the first pages of its ids."""
    write_tables(folder / "ids", ids)
    start = time.perf_counter()
    client = client_of(folder / "ids")
    print(f"opening {ids:,} ids: {time.perf_counter() - start:.2f} s")
    timed("session", lambda _: ask(client, "session"), rounds)
    timed("page of 200 ids", lambda k: ask(client, "ids", start=200 * k, count=200), rounds)
    timed("search", lambda k: ask(client, "ids", search=f"{k:03}", count=200), rounds)


def measure_hover(folder: Path, rounds: int) -> None:
    """Measure colours and similarities of large grids."""
    write_grids(folder / "large", HOVERED, GridShape(14, 14))
    client = client_of(folder / "large")
    ids = [image_id(k) for k in range(HOVERED)]
    timed("colours, 14x14x2048", lambda k: ask(client, "colours", id=ids[k % HOVERED]), rounds)
    client = client_of(folder / "large")
    timed(
        "hover, 14x14x2048, another image each time",
        lambda k: ask(client, "similar", id=ids[k % HOVERED], cell=k),
        min(rounds, HOVERED - 1),
    )
    timed("hover, the same image", lambda k: ask(client, "similar", id=ids[0], cell=k), rounds)
    timed(
        "hover, the same image and 8 others",
        lambda k: ask(client, "similar", id=ids[0], cell=k, others=ids[1:9]),
        rounds,
    )


def measure_nearest(folder: Path, images: int, rounds: int) -> None:
    """Measure the scan of all cells of a sample."""
    write_grids(folder / "small", images, GridShape(7, 7))
    client = client_of(folder / "small")
    one = image_id(0)
    timed(
        f"nearest cells, {images:,} images of 7x7x2048",
        lambda k: ask(client, "nearest/cells", id=one, cell=k % 49),
        rounds,
    )
    timed("nearest images", lambda _: ask(client, "nearest/images", id=one), rounds)


def measure_text(folder: Path, model: str, rounds: int) -> None:
    """Measure heat maps of texts over grids of 14x14."""
    from clipfeat.extract.backbones.weights import load_model
    from clipfeat.extract.planning.plan import BackboneSpec

    described = load_model(BackboneSpec(model, "none", 0, "float32")).described
    write_grids(folder / "text", 2, GridShape(14, 14), described)
    client = client_of(folder / "text")
    timed(
        f"text, {model}, 14x14x2048",
        lambda k: ask(client, "text", id=image_id(k % 2), text=f"a photo of {k} cats"),
        rounds,
    )


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=123_000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--text", metavar="MODEL", default="RN50", help="2048 channels; '' for none"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_ids(folder, options.ids, options.rounds)
        measure_hover(folder, options.rounds)
        measure_nearest(folder, options.images, options.rounds)
        if options.text:
            measure_text(folder, options.text, options.rounds)


if __name__ == "__main__":
    main()
