"""What the explorer answers: each question is a function of what is open and of a query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from ..base import clipfeat_version
from ..base.errors import MissingRecordError, UsageError
from ..base.text import printable
from ..featstore.report.colours import ColourBasis
from .colours import colours, store_basis
from .ids import MAX_PAGE
from .images import ImageFiles
from .nearest import Neighbours, similar
from .records import ViewedStore, difference
from .runs import Comparisons, ViewedRun
from .texts import CellTexts, WeightFiles

MAX_OTHERS, MAX_TEXT, MAX_ID = 50, 300, 4096
MAX_NEAREST = 500


class Query:
    """The parameters of a request, each checked when it is read."""

    def __init__(self, values: Mapping[str, Sequence[str]]):
        self._values = values

    def text(self, name: str, most: int = MAX_TEXT, default: str | None = None) -> str:
        """Return a text of at most `most` characters; without a default it must be there."""
        (value,) = self.texts(name, 1, most) or [default]
        if value is None:
            raise UsageError(f"{name} is missing; add {name}=...", code="E-VIEW-QUERY")
        return value

    def texts(self, name: str, count: int, most: int = MAX_ID) -> list[str]:
        """Return at most `count` texts of one name."""
        values = [*self._values.get(name, ())]
        if len(values) > count:
            raise UsageError(
                f"{name} may be given {count} times; got {len(values)}", code="E-VIEW-QUERY"
            )
        if any(len(value) > most for value in values):
            raise UsageError(f"{name} may have {most} characters", code="E-VIEW-QUERY")
        return values

    def number(self, name: str, high: int, default: int | None = None) -> int:
        """Return a whole number from 0 to `high`."""
        value = self.text(name, 20, None if default is None else str(default))
        if not (value.isascii() and value.isdigit() and int(value) <= high):
            raise UsageError(
                f"{name} must be a whole number from 0 to {high}; got {printable(value)!r:.30}",
                code="E-VIEW-QUERY",
            )
        return int(value)

    @property
    def image_id(self) -> str:
        """The image id that is asked for."""
        return self.text("id", MAX_ID)


class OpenStore:
    """A store with what is computed of it when it is first needed."""

    def __init__(self, viewed: ViewedStore, weights: WeightFiles):
        self.viewed = viewed
        self.neighbours = Neighbours(viewed)
        self.texts = CellTexts(viewed.store, weights)
        self._basis: ColourBasis | None = None
        self._lock = Lock()

    def basis(self) -> ColourBasis:
        """Return the principal directions of the store."""
        with self._lock:
            if self._basis is None:
                self._basis = store_basis(self.viewed)
            return self._basis

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows of the store, and whether texts can be compared with it."""
        problem = self.texts.problem
        return {**self.viewed.to_json(), "text": {"can": not problem, "why": problem}}


@dataclass
class Explorer:
    """The stores that are open, by their keys, and the images."""

    stores: dict[str, OpenStore]
    images: ImageFiles | None = None
    runs: Mapping[str, ViewedRun] = field(default_factory=dict)
    comparisons: Comparisons = field(default_factory=Comparisons)
    answers: dict[str, "Answer"] = field(init=False)

    def __post_init__(self) -> None:
        self.answers = {
            "session": self.session,
            "ids": self.ids,
            "record": self.record,
            "colours": self.colours,
            "similar": self.similar,
            "nearest/cells": self.nearest_cells,
            "nearest/images": self.nearest_images,
            "text": self.text,
            "answer": self.answer,
            "caption": self.caption,
            "entail": self.entail,
            "compare": self.compare,
            "diff": self.diff,
        }

    def store(self, query: Query) -> OpenStore:
        """Return the store that a query names; MissingRecordError (E-VIEW-STORE) for another."""
        key = query.text("store", 20)
        if key not in self.stores:
            raise MissingRecordError(
                f"there is no store {key!r}; there are {', '.join(self.stores)}",
                code="E-VIEW-STORE",
            )
        return self.stores[key]

    def session(self, query: Query) -> dict[str, Any]:
        """Return what is open."""
        del query
        return {
            "version": clipfeat_version(),
            "stores": [each.to_json() for each in self.stores.values()],
            "runs": [run.to_json() for run in self.runs.values()],
            "images": self.images is not None,
        }

    def ids(self, query: Query) -> dict[str, Any]:
        """Return a page of the ids that fit."""
        start = query.number("start", 1 << 40, 0)
        total, entries = self.store(query).viewed.catalogue.page(
            search=query.text("search", default=""),
            status=query.text("status", default=""),
            shape=query.text("shape", default=""),
            start=start,
            count=query.number("count", MAX_PAGE, 100),
        )
        return {"total": total, "start": start, "ids": [entry.to_json() for entry in entries]}

    def record(self, query: Query) -> dict[str, Any]:
        """Return what is known of one id."""
        viewed = self.store(query).viewed
        entry = viewed.catalogue.find(query.image_id)
        has_image = self.images is not None and self.images.has(entry)
        return {**viewed.record(entry.image_id), "has_image": has_image}

    def colours(self, query: Query) -> dict[str, Any]:
        """Return a grid as colours."""
        opened, show = self.store(query), query.text("show", default="pca")
        grid = opened.viewed.grid(query.image_id)
        return colours(opened.basis() if show == "pca" else None, grid, show)

    def image(self, query: Query) -> tuple[bytes, str]:
        """Return the file of an image and its media type."""
        entry = self.store(query).viewed.catalogue.find(query.image_id)
        if self.images is None:
            raise MissingRecordError(
                "images are not shown; start clipfeat view with --images DIR",
                code="E-VIEW-NO-IMAGE",
            )
        return self.images.read(entry)

    def similar(self, query: Query) -> dict[str, Any]:
        """Return similarities to a cell."""
        others = query.texts("others", MAX_OTHERS)
        cell = query.number("cell", 1 << 30)
        return similar(self.store(query).viewed, query.image_id, cell, others)

    def nearest_cells(self, query: Query) -> dict[str, Any]:
        """Return the cells nearest to a cell."""
        cell, count = query.number("cell", 1 << 30), query.number("count", MAX_NEAREST, 20)
        return self.store(query).neighbours.cells(query.image_id, cell, count)

    def nearest_images(self, query: Query) -> dict[str, Any]:
        """Return the images nearest to an image."""
        count = query.number("count", MAX_NEAREST, 20)
        return self.store(query).neighbours.images(query.image_id, count)

    def text(self, query: Query) -> dict[str, Any]:
        """Return the similarity of a text to each cell."""
        opened, text = self.store(query), query.text("text")
        return opened.texts.heat(opened.viewed.grid(query.image_id), text)

    def run(self, key: str) -> ViewedRun:
        """Return the run of a key; MissingRecordError (E-VIEW-RUN) for another one."""
        if key not in self.runs:
            there = f"there are {', '.join(self.runs)}" if self.runs else "add --run RUN"
            raise MissingRecordError(f"there is no run {key!r:.20}; {there}", code="E-VIEW-RUN")
        return self.runs[key]

    def answer(self, query: Query) -> dict[str, Any]:
        """Return what a run answers to a question about an image."""
        return self.run(query.text("run", 20)).answer(query.image_id, query.text("question"))

    def caption(self, query: Query) -> dict[str, Any]:
        """Return the caption that a run writes of an image."""
        return self.run(query.text("run", 20)).caption(query.image_id)

    def entail(self, query: Query) -> dict[str, Any]:
        """Return what a run thinks of a hypothesis about an image."""
        return self.run(query.text("run", 20)).entail(query.image_id, query.text("hypothesis"))

    def compare(self, query: Query) -> dict[str, Any]:
        """Return the examples on which two runs differ most."""
        runs = [self.run(key) for key in query.texts("runs", 2, 20)]
        start, count = query.number("start", 1 << 40, 0), query.number("count", MAX_PAGE, 50)
        return self.comparisons.page(runs, start, count)

    def diff(self, query: Query) -> dict[str, Any]:
        """Return how the records of an image differ in the first two stores."""
        if len(self.stores) < 2:
            raise UsageError(
                "this compares two stores; name both: clipfeat view A B", code="E-VIEW-STORES"
            )
        a, b = [*self.stores.values()][:2]
        return difference(a.viewed, b.viewed, query.image_id)


Answer = Callable[[Query], dict[str, Any]]
