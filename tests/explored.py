"""Stores for the explorer's page, and a window of a browser that shows them."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import (
    BrowserContext,
    Locator,
    Page,
    Position,
    Route,
    expect,
    sync_playwright,
)
from stores import make_identity, make_store, padded_store

from clipfeat.featstore import GridShape, write_store

RNG = np.random.default_rng(0)
COUNT, CORRUPT, GONE, ODD = 40, "i007", "i005", "odd <b>&'\" id"
IDS = [*(f"i{k:03}" for k in range(COUNT - 1)), ODD]
COLOURS = RNG.integers(0, 256, (COUNT, 6, 8, 3)).astype(np.uint8)
COLOURS[2, 0, 0] = COLOURS[1, 5, 7]  # a cell that two images share
RECIPE = {"name": "stretched", "steps": [{"step": "rgb"}]}
PAD = {"step": "pad", "height": 96, "width": 64, "turn": False, "odd": "first", "cell": [32, 32]}


def features(colours: np.ndarray, dim: int) -> np.ndarray:
    """Return a grid whose cells depend on the colours of an image alone."""
    mixed = np.random.default_rng(dim).standard_normal((4, dim))
    known = np.concatenate([colours / 255, np.full((*colours.shape[:2], 1), 0.3)], axis=2)
    return (known @ mixed).astype(np.float16)


FIRST = {image_id: features(c, 16) for image_id, c in zip(IDS, COLOURS, strict=True)}
SECOND = {i: features(c[::2, ::2], 8) for i, c in zip(IDS, COLOURS, strict=True)}


def cosines(cell: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the cosine of every cell of a grid with one cell, in float64."""
    cell, cells = cell.astype(float), grid.astype(float).reshape(-1, grid.shape[-1])
    return cells @ cell / np.linalg.norm(cells, axis=1) / np.linalg.norm(cell)


def damage(store: Path) -> None:
    """Turn some bits of the record CORRUPT of store a, which is not compressed, or turn them back."""
    middle = FIRST[CORRUPT].tobytes()[20:100]
    (path,) = [path for path in store.rglob("c.*") if middle in path.read_bytes()]
    content = bytearray(path.read_bytes())
    content[content.index(middle) - 10] ^= 0xFF
    path.write_bytes(content)


YELLOW, PURPLE = (253, 231, 37, 255), (68, 1, 84, 255)  # the ends of the scale of colours


def write_stores(folder: Path) -> None:
    """Write stores: a and b of the same images, c padded, d of regions, e of views; and images."""
    (folder / "images").mkdir()
    for image_id, colours in zip(IDS, COLOURS, strict=True):
        image = Image.fromarray(colours).resize((320, 240), Image.Resampling.NEAREST)
        image.save(folder / "images" / f"{image_id}.png")
    first = make_identity(16, "none", backbone={"model": "first"}, recipe=RECIPE)
    shapes = dict.fromkeys(IDS, GridShape(6, 8))
    records = {i: {"grid": grid} for i, grid in FIRST.items() if i != GONE}
    write_store(folder / "a", first, shapes, records.get, 1, sizes=dict.fromkeys(IDS, (320, 240)))
    damage(folder / "a")
    make_store(folder / "b", SECOND, backbone={"model": "second"}, recipe=RECIPE)
    padded = {"name": "padded", "steps": [PAD, {"step": "rgb"}]}
    padded_store(folder / "c", padded, {"wide": (64, 32)}, GridShape(3, 2))
    boxes = np.array([[0, 0, 100, 100], [20, 20, 60, 60], [50, 50, 90, 80]], np.float32)
    regions = {"boxes": boxes, "grid": RNG.standard_normal((3, 1, 4)).astype(np.float16)}
    write_store(
        folder / "d", make_identity(4, regions=("boxes",)), {"found": GridShape(3, 1)},
        {"found": regions}.get, 2, sizes={"found": (100, 100)},
    )  # fmt: skip
    views = {"place": RNG.standard_normal((36, 1, 4)).astype(np.float16)}
    make_store(folder / "e", views, recipe={"name": "views", "views": 36})


OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WAITING = 30_000  # milliseconds: for machines that do other things


@contextmanager
def opened_browser(address: str) -> Iterator[BrowserContext]:
    """A browser that has opened the page at an address with its token once."""
    chromium = shutil.which("chromium")
    assert chromium, "install chromium (the package chromium of Debian)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(WAITING)
        expect.set_options(timeout=WAITING)
        page = context.new_page()
        page.goto(address)
        page.close()
        yield context
        browser.close()


class Window:
    """A page of the explorer, with what went wrong in it."""

    def __init__(self, page: Page, origin: str):
        self.page = page
        self.origin = origin
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: self._log(line.type, line.text))
        page.on("request", lambda request: self.asked.append(request.url))

    def _log(self, kind: str, text: str) -> None:
        # The browser itself logs answers such as 404 and 422, which the page shows.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def open(self, **query: str | int | list[str]) -> None:
        """Open the page at a state."""
        self.page.goto(f"{self.origin}/?{urlencode(query, doseq=True)}")

    @property
    def state(self) -> dict[str, list[str]]:
        """The query of the address."""
        return parse_qs(urlsplit(self.page.url).query)

    def waits_for(self, **query: str) -> None:
        """Wait until the address has these values, and no value where "" is given."""
        # wait_for_function evaluates text, which the page's content security policy refuses.
        deadline = time.monotonic() + WAITING / 1000
        while not self._has(query):
            assert time.monotonic() < deadline, (
                f"waited for {query}; the address is {self.page.url}"
            )
            self.page.wait_for_timeout(20)

    def _has(self, query: dict[str, str]) -> bool:
        return all(self.state.get(name, [""])[0] == value for name, value in query.items())

    def figure(self, store: str) -> Locator:
        return self.page.get_by_role("figure", name=f"Store {store}")

    def scene(self, store: str) -> Locator:
        return self.figure(store).locator("> .scene")  # not those of pinned images

    def place(self, store: str, cell: int, shape: tuple[int, int]) -> Position:
        """Return the middle of a cell in its figure, in pixels."""
        box = self.scene(store).bounding_box()
        assert box
        row, col = divmod(cell, shape[1])
        return {
            "x": (col + 0.5) * box["width"] / shape[1],
            "y": (row + 0.5) * box["height"] / shape[0],
        }

    def hover(self, store: str, cell: int, shape: tuple[int, int] = (6, 8)) -> None:
        self.scene(store).hover(position=self.place(store, cell, shape))

    def click(self, store: str, cell: int, shape: tuple[int, int] = (6, 8)) -> None:
        self.scene(store).click(position=self.place(store, cell, shape))

    def pixel(self, scene: Locator, x: float, y: float) -> tuple[int, ...]:
        """Return red, green, blue and opacity at shares of a figure's drawing."""
        data = scene.locator("canvas").evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData("
            "Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]",
            [x, y],
        )
        return tuple(data)

    def photograph(self, name: str) -> None:
        """Write a screenshot where the environment asks for it."""
        if folder := os.environ.get("CLIPFEAT_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.wait_for_load_state("networkidle")
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def answer(page: Page, name: str, respond: Callable[[dict[str, list[str]]], object]) -> None:
    """Let a function of the query answer one call in place of the server."""

    def handle(route: Route) -> None:
        content = respond(parse_qs(urlsplit(route.request.url).query))
        route.fulfill(status=200, content_type="application/json", body=json.dumps(content))

    page.route(re.compile(rf"/api/{name}(\?|$)"), handle)


def peak(cell: int) -> list[float]:
    """Return attention to one cell of store a."""
    return [1.0 if k == cell else 0.0 for k in range(48)]


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2, its definition)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
