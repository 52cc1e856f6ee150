"""What tests find in a card: the page as a browser's parser reads it, the header of README.md."""

import itertools
from html.parser import HTMLParser

import yaml

VOID = {"meta", "br", "img", "link", "input", "hr"}
# What SVG writes as an element that ends at once.
EMPTY = {"rect", "path", "use", "polyline", "polygon", "image"}


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, content: bytes):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content.decode())
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID | EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of the elements of a kind."""
        return [attrs for name, attrs in self.elements if name == tag]

    def check_is_closed(self) -> None:
        """Assert that the page runs nothing and asks nobody for anything."""
        names = {name for name, _ in self.elements}
        assert not names & {"script", "iframe", "object", "embed", "form", "base", "link"}
        (policy,) = [
            e for e in self.all("meta") if e.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy["content"].startswith("default-src 'none'; img-src data:; ")
        for name, attrs in self.elements:
            assert not any(key.startswith("on") for key in attrs), (name, attrs)
            for key in ("src", "href", "xlink:href", "action", "srcset"):
                assert attrs.get(key, "#").startswith(("#", "data:image/")), (name, attrs)

    def check_is_accessible(self) -> None:
        """Assert what screen readers need: language, title, headings in order, alternatives."""
        assert self.all("html")[0]["lang"] == "en"
        levels = [int(name[1]) for name, _ in self.elements if name in ("h1", "h2", "h3")]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        assert all(image["alt"] for image in self.all("img"))
        for svg in self.all("svg"):
            named = svg.get("role") == "img" and svg.get("aria-label")
            assert named or svg.get("aria-hidden") == "true" or set(svg) == {"width", "height"}
        ids = [attrs["id"] for _, attrs in self.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {section["aria-labelledby"] for section in self.all("section")} <= set(ids)


def header_of(readme: str) -> dict[str, object]:
    """Return the header of a README.md, as YAML."""
    before, header, _ = readme.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(header)
