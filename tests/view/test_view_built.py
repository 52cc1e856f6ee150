"""The files of the page that are in the repository: built from their sources, small, licensed."""

import gzip
import hashlib
import json
import re
from pathlib import Path

from clipfeat.featstore.card.style import PROPERTIES

ROOT = Path(__file__).parents[2]
SOURCES, PAGE = ROOT / "view" / "frontend", ROOT / "view" / "page"
BUILT = {"index.html", "app.js", "app.css", "licences.txt", "sources.sha256"}


def test_the_page_is_built_from_its_sources():
    names = [path.relative_to(SOURCES).as_posix()
             for folder in (SOURCES, SOURCES / "src") for path in folder.iterdir()]  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(n for n in names if re.search(r"\.(tsx?|css|html|mjs|json)$", n)):
        content = (SOURCES / name).read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    assert (PAGE / "sources.sha256").read_text() == digest.hexdigest() + "\n", "make view-page"
    assert {path.name for path in PAGE.iterdir()} == BUILT


def test_it_is_small():
    assert sum(len(gzip.compress(path.read_bytes())) for path in PAGE.iterdir()) < 60_000


def test_it_loads_nothing_from_elsewhere():
    html = (PAGE / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', html) == ["app.css", "app.js"]
    assert "style=" not in html  # which the content security policy forbids
    assert not re.search(r"url\(|@import", (PAGE / "app.css").read_text())
    addresses = set(re.findall(r"https?://[\w./-]+", (PAGE / "app.js").read_text()))
    assert {a for a in addresses if not a.startswith("http://www.w3.org/")} == set()


def test_packages_in_it_have_their_licences():
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    inside = {name.removeprefix("node_modules/"): each for name, each in lock["packages"].items()
              if name and not each.get("dev") and not each.get("optional")}  # fmt: skip
    licences = (PAGE / "licences.txt").read_text()
    assert inside
    for name, package in inside.items():
        assert f"{name} {package['version']}, {package['license']}\n" in licences
    assert "Permission is hereby granted" in licences


def test_the_lock_file_names_no_registry():
    text = (SOURCES / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert text.count('"integrity": "sha512-') == len(json.loads(text)["packages"]) - 1


def test_its_colours_and_fonts_are_those_of_the_card():
    css = (PAGE / "app.css").read_text()
    for mine, its in zip(blocks(css), blocks(PROPERTIES), strict=True):
        shared = (mine.keys() & its.keys()) - {
            "radius"
        }  # of controls, smaller than the card's boxes
        assert {name: mine[name] for name in shared} == {name: its[name] for name in shared}
        assert {"paper", "ink", "faint", "line", "accent", "warning", "mark"} <= shared


def blocks(css: str) -> list[dict[str, str]]:
    """Return the custom properties of :root, in light and in dark, as a minifier writes them."""
    found = re.findall(r":root\s*{([^}]*)}", css)
    tidied = (re.sub(r"\s*([,:;])\s*", r"\1", block) for block in found)
    return [dict(re.findall(r"--([a-z-]+):([^;]*)", each.strip())) for each in tidied]
