"""The explorer's page in a real browser: Chromium, driven through Playwright.

With CLIPFEAT_SCREENSHOTS=FOLDER the tests write what they see into that folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, Route, expect, sync_playwright
from stores import make_identity, make_store, padded_store

from clipfeat.featstore import GridShape, write_store

OPTIONS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with stores: a and b of the same images, c padded, d of regions, e of views."""
    folder = tmp_path_factory.mktemp("viewed")
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
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """The address that `clipfeat view` prints, with its token."""
    stores = [str(folder / name) for name in "abcde"]
    command = [sys.executable, "-m", "clipfeat.cli", "view", *stores, "--port", "0", "--no-browser"]
    with subprocess.Popen(
        [*command, "--images", str(folder / "images")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture(scope="module")
def context(address) -> Iterator[BrowserContext]:
    """A browser that has opened the page with its token once."""
    chromium = shutil.which("chromium")
    assert chromium, "install chromium (the package chromium of Debian)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(10_000)
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
        wanted = json.dumps(query)
        self.page.wait_for_function(
            "wanted => Object.entries(JSON.parse(wanted)).every(([name, value]) => "
            "(new URLSearchParams(location.search).get(name) ?? '') === value)",
            arg=wanted,
        )

    def figure(self, store: str):
        return self.page.get_by_role("figure", name=f"Store {store}")

    def scene(self, store: str):
        return self.figure(store).locator(".scene").first

    def place(self, store: str, cell: int, shape: tuple[int, int]) -> dict[str, float]:
        """Return the middle of a cell in its figure, in pixels."""
        box = self.scene(store).bounding_box()
        assert box
        row, col = divmod(cell, shape[1])
        return {"x": (col + 0.5) * box["width"] / shape[1], "y": (row + 0.5) * box["height"] / shape[0]}

    def hover(self, store: str, cell: int, shape: tuple[int, int] = (6, 8)) -> None:
        self.scene(store).hover(position=self.place(store, cell, shape))  # type: ignore[arg-type]

    def click(self, store: str, cell: int, shape: tuple[int, int] = (6, 8)) -> None:
        self.scene(store).click(position=self.place(store, cell, shape))  # type: ignore[arg-type]

    def pixel(self, scene, x: float, y: float) -> list[int]:
        """Return red, green, blue and opacity at shares of a figure's drawing."""
        return scene.locator("canvas").evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData("
            "Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]",
            [x, y],
        )

    def photograph(self, name: str) -> None:
        """Write a screenshot where the environment asks for it."""
        if folder := os.environ.get("CLIPFEAT_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.wait_for_load_state("networkidle")
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def window(context, address) -> Iterator[Window]:
    """A fresh page; nothing may go wrong in it, and it asks no other server for anything."""
    window = Window(context.new_page(), address.partition("/?")[0])
    yield window
    window.page.close()
    assert window.faults == []
    assert all(url.startswith((window.origin, "data:")) for url in window.asked)


@pytest.fixture
def page(window) -> Page:
    return window.page


def answer(page: Page, name: str, respond: Callable[[dict[str, list[str]]], object]) -> None:
    """Let a function of the query answer one call in place of the server."""

    def handle(route: Route) -> None:
        content = respond(parse_qs(urlsplit(route.request.url).query))
        route.fulfill(status=200, content_type="application/json", body=json.dumps(content))

    page.route(re.compile(rf"/api/{name}(\?|$)"), handle)


def test_it_opens_on_the_first_image(window, page, address):
    page.goto(address + "&beside=none")
    window.waits_for(id="i000", token="")
    expect(page.get_by_role("heading", name="i000")).to_be_visible()
    expect(page).to_have_title("i000 · first · clipfeat")
    picture = page.get_by_role("img", name="Image i000")
    page.wait_for_function("document.querySelector('.scene img')?.naturalWidth === 320")
    assert picture.bounding_box()["height"] > 100
    expect(window.figure("a")).to_contain_text("first · stretched · 6×8×16")
    expect(page.get_by_role("status")).to_contain_text("i000: grid of 6 by 8 cells, PCA colours")


def test_colours_are_those_of_the_store(window, page):
    window.open(id="i001", beside="none")
    expect(window.figure("a")).to_contain_text("of the variance")
    pixels = np.array([window.pixel(window.scene("a"), (k + 0.5) / 8, 0.5) for k in range(8)])
    assert (pixels[:, 3] == 255).all()
    served = page.evaluate("fetch('api/colours?store=a&id=i001&show=pca').then((a) => a.json())")
    row = np.array(served["rgb"][3 * 8 : 4 * 8])  # half of the height is the upper edge of row 4
    assert np.abs(pixels[:, :3] - row).max() == 0


def test_norms_and_channels(window, page):
    window.open(id="i001", beside="none")
    page.get_by_role("radio", name="Norms").check()
    window.waits_for(show="norms")
    norms = np.linalg.norm(FIRST["i001"].astype(float), axis=2)
    window.hover("a", 11)
    expect(window.figure("a").locator(".readout")).to_have_text(
        f"row 2, column 4, norm {norms[1, 3]:.3g}"
    )
    expect(window.figure("a").locator(".legend")).to_contain_text(f"{norms.max():.3g}")
    page.get_by_role("radio", name="Channel").check()
    page.get_by_role("spinbutton", name="Channel").fill("5")
    page.keyboard.press("Enter")
    window.waits_for(show="channel:5")
    expect(window.figure("a").locator(".legend")).to_contain_text("channel 5")
    page.go_back()
    window.waits_for(show="norms")
    expect(window.figure("a").locator(".legend")).to_contain_text("norm")


def test_hover_compares_with_every_cell_and_with_pinned_images(window, page):
    window.open(id="i001", beside="none", show="similar", pin=["i002", "i003"])
    window.hover("a", 47)
    readout = window.figure("a").locator(".readout")
    expect(readout).to_contain_text("row 6, column 8, norm")
    expect(readout).to_contain_text("similarity 1")
    expected = cosines(FIRST["i001"][5, 7], FIRST["i001"])
    first = page.get_by_role("grid", name="Cells of i001, 6 rows, 8 columns").get_by_role("gridcell")
    expect(first).to_have_accessible_name(re.compile(f"row 1, column 1, .*{expected[0]:.3g}$"))
    pinned = page.get_by_role("list", name="Pinned images").get_by_role("listitem")
    expect(pinned).to_have_count(2)
    # The cell that both images share has the last colour of the scale; that of another image not.
    shared = pinned.nth(0).locator(".scene")
    page.wait_for_timeout(50)
    assert window.pixel(shared, 1 / 16, 1 / 12) == [253, 231, 37, 255]
    assert window.pixel(pinned.nth(1).locator(".scene"), 1 / 16, 1 / 12) != [253, 231, 37, 255]
    window.photograph("similar")
    page.get_by_role("button", name="Unpin i002").click()
    window.waits_for(pin="i003")


def test_the_same_cell_is_marked_in_both_stores_and_on_the_image(window, page):
    window.open(id="i001", store="a", beside="b")
    expect(page.locator(".difference")).to_be_visible()
    window.hover("b", 5, (3, 4))  # row 2, column 2 of 3x4: rows 3 and 4, columns 3 and 4 of 6x8
    expect(window.figure("b").locator(".readout")).to_contain_text("row 2, column 2, norm")
    expect(window.figure("a").locator(".readout")).to_contain_text("row 4, column 4, norm")
    marks = page.locator(".figures .mark.pointed")
    expect(marks).to_have_count(3)  # the image has that of its own store
    window.photograph("two-stores")
    page.get_by_label("Beside").select_option("none")
    expect(page.get_by_role("figure", name="Store b")).to_have_count(0)


def test_a_click_finds_the_nearest_cells_and_images(window, page):
    window.open(id="i001", beside="none")
    window.click("a", 47)
    window.waits_for(cell="47")
    nearest = page.get_by_role("region", name="Nearest cells")
    first = nearest.get_by_role("listitem").first
    # A brute-force scan: the shared cell is the nearest one, with a cosine of 1.
    everywhere = {i: cosines(FIRST["i001"][5, 7], g) for i, g in FIRST.items() if i != GONE}
    del everywhere["i001"]
    best = max(everywhere, key=lambda i: everywhere[i].max())
    assert (best, int(everywhere[best].argmax())) == ("i002", 0)
    expect(first).to_contain_text("i002")
    expect(first).to_contain_text("row 1, column 1")
    expect(first).to_contain_text("1.000")
    images = page.get_by_role("region", name="Nearest images")
    expect(images.get_by_role("listitem")).to_have_count(12)
    window.photograph("nearest")
    nearest.get_by_role("button", name="Pin i002").first.click()
    window.waits_for(pin="i002")
    first.get_by_role("link").click()
    window.waits_for(id="i002", cell="0")
    expect(page.get_by_role("heading", name="i002")).to_be_visible()
    page.go_back()
    window.waits_for(id="i001", cell="47", pin="i002")
    page.go_back()
    window.waits_for(pin="")
    page.go_forward()
    window.waits_for(pin="i002")


def test_the_keyboard_reaches_everything(window, page):
    window.open(id="i001", beside="none")
    images = page.get_by_role("listbox", name="Images")
    images.focus()
    for _ in range(3):
        images.press("ArrowDown")
    window.waits_for(id="i004")
    expect(images.get_by_role("option", selected=True)).to_contain_text("i004")
    images.press("End")
    window.waits_for(id=IDS[-1])
    images.press("Home")
    window.waits_for(id="i000")
    cell = page.get_by_role("gridcell")
    cell.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        cell.press(key)
    norm = np.linalg.norm(FIRST["i000"][1, 2].astype(float))
    expect(cell).to_have_accessible_name(f"row 2, column 3, norm {norm:.3g}")
    expect(page.get_by_role("status")).to_contain_text("row 2, column 3, norm")
    expect(page.locator(".figures .mark.pointed")).to_have_count(2)
    cell.press("Enter")
    window.waits_for(cell="10")
    expect(cell).to_be_focused()
    cell.press("End")
    cell.press(" ")
    window.waits_for(cell="15")
    cell.press("Escape")
    window.waits_for(cell="")
    page.get_by_role("radio", name="PCA").focus()
    page.keyboard.press("ArrowRight")
    window.waits_for(show="norms")


def test_search_and_filters_are_in_the_address(window, page):
    window.open(beside="none")
    page.get_by_role("searchbox", name="Search ids").fill("i01")
    window.waits_for(search="i01")
    expect(page.locator(".list .row")).to_have_count(10)
    expect(page.locator(".count")).to_have_text("10 images")
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Status").select_option("missing")
    window.waits_for(status="missing")
    expect(page.locator(".list .row")).to_have_count(1)
    page.locator(".list .row").click()
    window.waits_for(id=GONE)
    expect(window.figure("a")).to_contain_text("has no features of this image: missing")
    page.reload()
    expect(window.figure("a")).to_contain_text("has no features of this image: missing")
    expect(page.locator(".list .row")).to_have_count(1)
    page.get_by_label("Status").select_option("")
    page.get_by_label("Grid shape").select_option("6x8")
    expect(page.locator(".list .row").first).to_contain_text("i000")


def test_an_id_is_only_text(window, page):
    window.open(id=ODD, beside="none")
    expect(page.get_by_role("heading", name=ODD)).to_be_visible()
    expect(window.figure("a")).to_contain_text("of the variance")
    assert page.locator("h1 b").count() == 0


def test_a_million_ids(window, page):
    def ids(query):
        start, count = int(query["start"][0]), int(query["count"][0])
        places = range(start, min(1_000_000, start + count))
        rows = [{"id": f"n{k:06}", "status": "ok", "reason": None, "shape": [6, 8]} for k in places]
        return {"total": 1_000_000, "start": start, "ids": rows}

    answer(page, "ids", ids)
    window.open(id="i001", beside="none")
    expect(page.locator(".count")).to_have_text("1,000,000 images")
    images = page.get_by_role("listbox", name="Images")
    images.evaluate("(list) => list.scrollTo(0, list.scrollHeight)")
    expect(images.get_by_text("n999999")).to_be_in_viewport()
    images.evaluate("(list) => list.scrollTo(0, list.scrollHeight / 2)")
    expect(page.get_by_text("n500040")).to_be_visible()
    assert page.locator(".list .row").count() < 100
    pages = {url for url in window.asked if "/api/ids" in url}
    assert len(pages) < 10
    images.focus()
    images.press("Home")
    expect(images.get_by_text("n000000")).to_be_in_viewport()
    images.press("End")
    expect(images.get_by_text("n999999")).to_be_in_viewport()


def test_a_record_that_is_corrupt_is_named_and_the_rest_goes_on(window, page, folder):
    window.open(id=CORRUPT, beside="b")
    trouble = window.figure("a").get_by_role("alert")
    expect(trouble).to_contain_text(f"{CORRUPT} in store a")
    expect(trouble.get_by_text("E-SHARD-")).to_be_visible()
    expect(window.figure("b")).to_contain_text("of the variance")  # the other store's is right
    window.photograph("corrupt")
    page.get_by_role("option", name="i008").click()
    expect(window.figure("a")).to_contain_text("of the variance")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.go_back()
    expect(trouble).to_be_visible()
    damage(folder / "a")  # twice is as it was
    trouble.get_by_role("button", name="Try again").click()
    expect(window.figure("a")).to_contain_text("6×8×16")
    expect(trouble).to_have_count(0)
    damage(folder / "a")


def test_a_server_that_is_gone_is_said_and_asked_again(window, page):
    window.open(id="i001", beside="none")
    expect(window.figure("a")).to_contain_text("of the variance")
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("option", name="i009").click()
    trouble = window.figure("a").get_by_role("alert").first
    expect(trouble).to_contain_text("The server does not answer")
    page.unroute("**/api/**")
    trouble.get_by_role("button", name="Try again").click()
    expect(window.figure("a")).to_contain_text("6×8×16")


def test_a_page_whose_cookie_is_gone_says_what_to_do(context, address):
    assert context.browser
    with context.browser.new_context() as other:
        page = other.new_page()
        page.goto(f"{address}&id=i001&beside=none")
        expect(page.get_by_role("option", name="i009")).to_be_visible()
        other.clear_cookies()
        page.get_by_role("option", name="i009").click()
        trouble = page.get_by_role("figure", name="Store a").get_by_role("alert")
        expect(trouble).to_contain_text("open the address that clipfeat view has printed")
        expect(trouble).to_contain_text("E-VIEW-TOKEN")


@pytest.mark.parametrize(
    "query",
    [
        {"store": "zz", "id": "i001"},
        {"id": "no such id"},
        {"id": "i001", "cell": 99999, "show": "similar"},
        {"id": "i001", "show": "channel:999999"},
        {"id": "i001", "show": "attention:r9:3", "side": "compare"},
        {"id": "i001", "show": "bogus", "over": "x", "cell": "-1", "beside": "q", "side": "?"},
    ],
)
def test_an_address_that_makes_no_sense_leaves_a_page(window, page, query):
    window.open(**query)
    expect(page.locator(".list .row").first).to_contain_text("i000")
    expect(page.locator(".record h1")).to_be_visible()


def test_padding_is_hatched(window, page):
    window.open(store="c", id="wide", beside="none", show="norms")
    expect(window.figure("c")).to_contain_text("norm")
    scene = window.scene("c")
    middle = [window.pixel(scene, (k + 0.5) / 47, 0.5) for k in range(47)]
    assert len({tuple(p) for p in middle}) == 1
    edge = [window.pixel(scene, (k + 0.5) / 47, 0.1) for k in range(47)]
    assert len({tuple(p) for p in edge}) > 1  # stripes
    cell = page.get_by_role("gridcell")
    expect(cell).to_have_accessible_name("row 1, column 1, padding")
    window.photograph("padded")


def test_regions_are_boxes(window, page):
    window.open(store="d", id="found", beside="none", show="norms")
    expect(window.figure("d")).to_contain_text("3×1×4")
    box = window.scene("d").bounding_box()
    readout = window.figure("d").locator(".readout")
    for share, name in ((0.3, "region 2"), (0.05, "region 1"), (0.7, "region 3")):
        window.scene("d").hover(position={"x": share * box["width"], "y": share * box["height"]})
        expect(readout).to_contain_text(name)
    cell = page.get_by_role("gridcell")
    cell.focus()
    cell.press("ArrowRight")
    cell.press("Enter")
    window.waits_for(cell="1")
    window.photograph("regions")


def test_views_are_laid_out_by_heading_and_elevation(window, page):
    window.open(store="e", id="place", beside="none", cell=13)
    # View 12 * row + k looks 30 k degrees clockwise and 30 (row - 1) degrees up.
    expect(window.figure("e").locator(".readout")).to_contain_text("heading 30°, elevation 0°")
    window.hover("e", 0, (3, 12))
    expect(window.figure("e").locator(".readout")).to_contain_text("heading 0°, elevation 30°")


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2, its definition)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1920, 1080)])
def test_widths_and_themes(window, page, scheme, width, height):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": height})
    window.open(id="i001", cell=12, pin="i002", beside="b", over=60)
    expect(window.figure("b")).to_contain_text("of the variance")
    expect(page.get_by_role("region", name="Nearest images").get_by_role("listitem")).to_have_count(12)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for store in "ab":
        window.scene(store).scroll_into_view_if_needed()
        expect(window.scene(store)).to_be_in_viewport()
    assert page.locator(".bar-track > span").first.evaluate(
        "(bar) => getComputedStyle(bar).transitionDuration"
    ) in ("0s", "")
    # Every text that can be seen has a contrast of 4.5 with the ground it stands on.
    found = page.evaluate("""() => {
        const ground = (e) => {
            for (; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)|transparent/.test(colour)) return colour;
            }
        };
        const rgb = (colour) => {
            const canvas = document.createElement("canvas").getContext("2d");
            canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            return "rgb(" + [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)].join(", ") + ")";
        };
        return [...document.querySelectorAll("body *")]
            .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
                && e.checkVisibility() && !e.closest(".unseen, :disabled, details:not([open]) .about")
                && !e.parentElement.querySelector(":disabled"))
            .map((e) => [e.textContent.slice(0, 30), rgb(getComputedStyle(e).color), rgb(ground(e))]);
    }""")
    assert len(found) > 60
    ratios = {}
    for text, ink, ground in found:
        low, high = sorted((luminance(ink), luminance(ground)))
        ratios[text, ink, ground] = (high + 0.05) / (low + 0.05)
    assert {k: r for k, r in ratios.items() if r < 4.5} == {}
    page.evaluate("scrollTo(0, 0)")
    window.photograph(f"{width}-{scheme}")
