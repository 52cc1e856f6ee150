"""The explorer's page in a real browser: Chromium, driven through Playwright.

With CLIPFEAT_SCREENSHOTS=FOLDER the tests write what they see into that folder.
"""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from explored import (
    CORRUPT,
    FIRST,
    GONE,
    IDS,
    ODD,
    PURPLE,
    YELLOW,
    Window,
    answer,
    cosines,
    damage,
    luminance,
    opened_browser,
    peak,
    write_stores,
)
from playwright.sync_api import BrowserContext, Page, Route, expect

from clipfeat.view.export import export
from clipfeat.view.open import open_explorer


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the files of a folder."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with stores and images."""
    folder = tmp_path_factory.mktemp("viewed")
    write_stores(folder)
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
    with opened_browser(address) as context:
        yield context


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


def test_it_opens_on_the_first_image(window, page, address):
    page.goto(address + "&beside=none")
    window.waits_for(id="i000", token="")
    expect(page.get_by_role("heading", name="i000")).to_be_visible()
    expect(page).to_have_title("i000 · first · clipfeat")
    picture = page.get_by_role("img", name="Image i000")
    expect(picture).to_have_js_property("naturalWidth", 320)
    assert picture.bounding_box()["height"] > 100
    expect(window.figure("a")).to_contain_text("first · stretched · 6x8x16")
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
    first = page.get_by_role("grid", name="Cells of i001, 6 rows, 8 columns").get_by_role(
        "gridcell"
    )
    expect(first).to_have_accessible_name(re.compile(f"row 1, column 1, .*{expected[0]:.3g}$"))
    pinned = page.get_by_role("list", name="Pinned images").get_by_role("listitem")
    expect(pinned).to_have_count(2)
    # The cell that both images share has the last colour of the scale; that of another image not.
    shared = pinned.nth(0).locator(".scene")
    page.wait_for_timeout(50)
    assert window.pixel(shared, 1 / 16, 1 / 12) == YELLOW
    assert window.pixel(pinned.nth(1).locator(".scene"), 1 / 16, 1 / 12) != YELLOW
    window.photograph("similar")
    page.get_by_role("button", name="Unpin i002").press("Enter")
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
    expect(images.get_by_role("option", selected=True)).to_contain_text("i001")
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
    expect(window.figure("a")).to_contain_text("6x8x16")
    expect(trouble).to_have_count(0)
    damage(folder / "a")


def test_a_server_that_is_gone_is_said_and_asked_again(window, page):
    window.open(id=GONE, beside="none")  # near which nothing is, so that no other image is known
    expect(window.figure("a")).to_contain_text("missing")
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("option", name="i009").click()
    trouble = window.figure("a").get_by_role("alert")
    expect(trouble).to_contain_text("The server does not answer")
    page.unroute("**/api/**")
    trouble.get_by_role("button", name="Try again").click()
    expect(window.figure("a")).to_contain_text("6x8x16")
    expect(trouble).to_have_count(0)


def test_a_page_whose_cookie_is_gone_says_what_to_do(context, address):
    assert context.browser
    with context.browser.new_context() as other:
        page = other.new_page()
        page.goto(f"{address}&id={GONE}&beside=none")
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
    expect(window.figure("d")).to_contain_text("3x1x4")
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


RUNS = [
    {"key": "r0", "task": "vqa", "folder": "runs/first", "store": "a", "splits": ["val"]},
    {"key": "r1", "task": "vqa", "folder": "runs/second", "store": "a", "splits": ["val"]},
    {"key": "r2", "task": "caption", "folder": "runs/words", "store": "a", "splits": []},
    {"key": "r3", "task": "ve", "folder": "runs/entailed", "store": "a", "splits": []},
]


@pytest.fixture
def with_runs(page) -> Page:
    """A page whose server has runs and can show texts; this test answers in its place."""

    def session(route: Route) -> None:
        content = route.fetch().json()
        content["runs"] = RUNS
        for store in content["stores"]:
            store["text"] = {"can": store["key"] == "a", "why": "another program made it"}
        route.fulfill(json=content)

    page.route("**/api/session", session)
    answer(page, "text", lambda query: {"heat": peak(9), "says": f"How like {query['text'][0]}"})
    answer(page, "answer", lambda query: {
        "answers": [{"answer": f"{query['run'][0]} {query['question'][0]}", "score": 0.75}],
        "attention": [peak(3), peak(4)],
    })  # fmt: skip
    answer(page, "caption", lambda query: {
        "words": [{"word": w, "attention": peak(k)} for k, w in enumerate(["a", "red", "ball"])]
    })  # fmt: skip
    answer(page, "entail", lambda query: {
        "chances": {"entailment": 0.7, "neutral": 0.2, "contradiction": 0.1},
        "attention": [peak(5)],
    })  # fmt: skip
    answer(page, "compare", lambda query: {
        "n": 120, "differ": 70, "start": int(query["start"][0]), "examples": [
            {"example": k, "id": "i004", "text": f"question {k}?", "scores": [100.0, 0.0]}
            for k in range(int(query["start"][0]), min(120, int(query["start"][0]) + 50))
        ],
    })  # fmt: skip
    return page


def test_a_text_is_shown_over_the_cells(window, with_runs):
    page = with_runs
    window.open(id="i001", beside="b")
    page.get_by_role("radio", name="Text").check()
    page.get_by_label("Text", exact=True).last.fill("a red ball")
    page.keyboard.press("Enter")
    window.waits_for(text="a red ball", show="text")
    expect(window.figure("a")).to_contain_text("How like a red ball")
    expect(window.figure("b")).to_contain_text("another program made it")
    assert window.pixel(window.scene("a"), 1.5 / 8, 1.5 / 6) == YELLOW
    assert window.pixel(window.scene("a"), 0.5 / 8, 0.5 / 6) == PURPLE
    window.photograph("text")


def test_runs_answer_and_show_where_they_look(window, with_runs):
    page = with_runs
    window.open(id="i001", beside="none", side="runs")
    page.get_by_label("Question", exact=True).fill("what is it?")
    page.get_by_role("button", name="Ask").click()
    window.waits_for(question="what is it?")
    for run in ("r0", "r1"):
        expect(page.get_by_text(f"{run} what is it?")).to_be_visible()
    group = page.get_by_role("group", name="Run runs/second")
    group.get_by_role("link", name="glimpse 2").click()
    window.waits_for(show="attention:r1:1")
    expect(window.figure("a").locator(".legend")).to_contain_text("attention")
    assert window.pixel(window.scene("a"), 4.5 / 8, 0.5 / 6) == YELLOW
    page.get_by_label("Hypothesis").fill("a ball")
    page.get_by_role("button", name="Judge").click()
    expect(page.get_by_role("group", name="Run runs/entailed")).to_contain_text("neutral0.20")
    page.get_by_label("Caption every image that is opened").check()
    page.get_by_role("link", name="ball").click()
    window.waits_for(show="attention:r2:2", caption="1")
    page.reload()
    expect(page.get_by_role("link", name="ball")).to_be_visible()
    expect(window.figure("a").locator(".legend")).to_contain_text("attention")
    assert window.pixel(window.scene("a"), 2.5 / 8, 0.5 / 6) == YELLOW
    window.photograph("runs")


def test_two_runs_are_compared(window, with_runs):
    page = with_runs
    window.open(id="i001", beside="none")
    page.get_by_role("link", name="Compare").click()
    window.waits_for(side="compare")
    expect(page.get_by_role("table")).to_contain_text("70 examples of 120 with different scores")
    rows = page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(100)
    window.photograph("compare")
    page.get_by_label("Second run").select_option("r3")
    assert window.state["run"] == ["r0", "r3"]
    page.go_back()
    page.get_by_role("link", name="question 0?").click()
    window.waits_for(id="i004", question="question 0?", side="runs")
    expect(page.get_by_text("r0 question 0?")).to_be_visible()


def test_the_difference_of_two_stores_is_shown(window, page):
    window.open(id="i001")
    expect(page.locator(".difference")).to_contain_text("16 and 8 channels")
    answer(page, "diff", lambda query: {
        "same": False, "shape": [[6, 8], [6, 8]], "largest": 0.25, "relative_error": 0.125,
        "cosine": [0.5, *[0.75] * 47], "why": None,
    })  # fmt: skip
    page.reload()
    expect(page.locator(".difference")).to_have_text(
        "The stores differ by 0.25 at most, relative error 0.125, cosine of the cells 0.5 to 0.75."
    )
    page.get_by_role("link", name="0.5 to 0.75").click()
    window.waits_for(show="diff")
    expect(window.figure("a").locator(".legend")).to_contain_text("cosine of both stores")
    assert window.pixel(window.scene("a"), 0.5 / 8, 0.5 / 6) == PURPLE


def test_a_static_page_answers_without_a_server(context, folder, tmp_path):
    export(
        open_explorer([folder / "a", folder / "b"], images=str(folder / "images")),
        tmp_path / "s",
        500,
    )
    handler = partial(QuietHandler, directory=str(tmp_path / "s"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        window = Window(context.new_page(), f"http://127.0.0.1:{server.server_port}")
        page = window.page
        window.open(id="i001", show="similar", pin="i002")
        expect(page.locator(".count")).to_have_text("38 images")  # neither missing nor corrupt
        expected = cosines(FIRST["i001"][5, 7], FIRST["i001"])
        window.hover("a", 47)
        first = page.get_by_role("gridcell").first
        expect(first).to_have_accessible_name(re.compile(f"row 1, column 1, .*{expected[0]:.3g}$"))
        shared = page.get_by_role("list", name="Pinned images").first.locator(".scene")
        assert window.pixel(shared, 1 / 16, 1 / 12) == YELLOW
        expect(page.get_by_role("img", name="Image i001")).to_be_visible()
        expect(page.locator(".difference")).to_contain_text("16 and 8 channels")
        expect(page.get_by_role("complementary")).to_contain_text("This page is a sample")
        page.get_by_role("radio", name="Channel").check()
        low, high = FIRST["i001"][:, :, 0].min(), FIRST["i001"][:, :, 0].max()
        legend = window.figure("a").locator(".legend")
        expect(legend).to_contain_text(f"{low:.3g}")
        expect(legend).to_contain_text(f"{high:.3g}")
        page.get_by_role("searchbox").fill("I01")
        expect(page.locator(".list .row")).to_have_count(10)
        window.open(id=CORRUPT, beside="none")
        expect(window.figure("a")).to_contain_text("The sample of store a has no image id i007")
        page.close()
        assert window.faults == []
        server.shutdown()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1920, 1080)])
def test_widths_and_themes(window, page, scheme, width, height):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": height})
    window.open(id="i001", cell=12, pin="i002", beside="b", over=60)
    expect(window.figure("b")).to_contain_text("of the variance")
    expect(page.get_by_role("region", name="Nearest images").get_by_role("listitem")).to_have_count(
        12
    )
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
