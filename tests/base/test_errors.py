"""Packages that are missing, and what an error says of them."""

import importlib
import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base import errors
from clipfeat.base.errors import UsageError, how_to_install, needs_extra


@pytest.mark.parametrize(
    ("module", "code", "reason"),
    [
        ("not_on_earth", "E-EXTRA-MISSING", "not_on_earth"),
        ("xml.not_there", "E-EXTRA-MISSING", "xml.not_there"),
        ("broken", "E-EXTRA-BROKEN", "libmissing.so: cannot open"),
        ("nameless", "E-EXTRA-BROKEN", "no reason"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_named(
    module: str, code: str, reason: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "raise ImportError('libmissing.so: cannot open', name='broken')\n"
    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "nameless.py").write_text("raise ImportError('no reason')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with refuses(code, module, reason, "'.[train]'", kind=UsageError), needs_extra("train"):
        importlib.import_module(module)


OURS = "clipfeat.base.files"


@pytest.mark.parametrize(
    "line",
    [
        f"from {OURS} import not_there",
        "import clipfeat.base.not_there",
        f"exec(\"raise ImportError('cannot')\", {{'__name__': {OURS!r}}})",
    ],
)
def test_an_error_of_our_own_modules_is_not_a_missing_package(line: str) -> None:
    with pytest.raises(ImportError), needs_extra("train"):
        exec(line)


def test_every_extra_that_is_named_can_be_installed() -> None:
    source = Path(errors.__file__).parents[1]
    rooms = [path.parent for path in source.glob("*/__init__.py")]
    named = {
        extra
        for room in rooms
        for path in room.rglob("*.py")
        for extra in re.findall(r"(?:needs_extra|how_to_install)\(\"(\w+)\"\)", path.read_text())
    }
    assert {"extract", "train", "cluster", "caption", "demo"} <= named
    assert named <= set(metadata("clipfeat").get_all("Provides-Extra", []))
    assert how_to_install("train").endswith("pip install '.[train]'")


def test_pillow_is_named_as_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with refuses("E-EXTRA-MISSING", "Pillow", kind=UsageError), needs_extra("demo"):
        importlib.import_module("PIL")
