"""The package list is whole, arrows point one way, and light commands stay light."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Who may import whom; `base` is the floor, `cli` the roof.
ARROWS = {
    "base": set(),
    "manifests": {"base"},
    "featstore": {"base"},
    "extract": {"base", "manifests", "featstore"},
    "train": {"base", "manifests", "featstore"},
    "demo": {"base", "manifests", "featstore", "extract", "train"},
    "cli": {"base", "manifests", "featstore", "extract", "train", "demo"},
}
# The same inside a room; the files beside these folders are what others use.
INNER_ARROWS = {
    ("featstore", "writing"): set(),
    ("featstore", "audit"): {"writing"},
    ("featstore", "report"): set(),
    ("extract", "planning"): set(),
    ("extract", "pixels"): {"planning"},
    ("extract", "backbones"): {"planning"},
    ("extract", "executors"): {"planning", "pixels", "backbones"},
    ("train", "metrics"): set(),
    ("train", "pictures"): set(),
    ("train", "data"): {"metrics"},
    ("train", "models"): {"data"},
    ("train", "tasks"): {"data", "metrics", "models", "pictures"},
}
FORBIDDEN = {
    "featstore": {"torch", "open_clip", "PIL", "matplotlib"},
    "manifests": {"torch", "open_clip", "matplotlib"},
    "train": {"PIL", "open_clip", "matplotlib", "torchvision"},
}
PICTURES = ROOT / "train" / "pictures"  # the one place in train that may import matplotlib


def imports_of(file: Path) -> set[str]:
    """Return the absolute names that a source file imports, anywhere in it."""
    package = ["clipfeat", *file.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def test_the_package_list_is_every_folder_of_code():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join(["clipfeat", *init.parent.relative_to(ROOT).parts])
        for room in ARROWS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert listed == found
    assert all((ROOT / room / "py.typed").exists() for room in ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_point_one_way(room):
    for file in (ROOT / room).rglob("*.py"):
        names = imports_of(file)
        rooms = {n.split(".")[1] for n in names if n.startswith("clipfeat.")}
        assert rooms - {room} <= ARROWS[room], file
        outside = {name.split(".")[0] for name in names}
        allowed = {"matplotlib"} if file.parent == PICTURES else set()
        assert not outside & FORBIDDEN.get(room, set()) - allowed, file


@pytest.mark.parametrize(("room", "inner"), INNER_ARROWS)
def test_arrows_point_one_way_inside_a_room_too(room, inner):
    inside = {folder for outer, folder in INNER_ARROWS if outer == room}
    for file in (ROOT / room / inner).glob("*.py"):
        names = (name.split(".") for name in imports_of(file))
        rooms = {n[2] for n in names if n[:2] == ["clipfeat", room] and n[2:]}
        assert (rooms & inside) - {inner} <= INNER_ARROWS[room, inner], file


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from clipfeat.cli.main import clipfeat", {"torch", "numpy", "pyarrow", "zarr"}),
        (
            "import clipfeat.featstore.audit.verify, clipfeat.manifests",
            {"torch", "open_clip", "PIL"},
        ),
        (
            "import clipfeat.featstore.report.summary, clipfeat.featstore.writing.writer",
            {"dask", "torch"},
        ),
        ("import clipfeat.featstore.report.stats", {"torch"}),
        ("import clipfeat.train.tasks.vqa, clipfeat.train.tasks.vqa_predict", {"PIL", "open_clip"}),
        (
            "import clipfeat.train.data.vqa_files, clipfeat.train.data.questions",
            {"torch", "jaxtyping", "numpy"},
        ),
        (
            "import clipfeat.train.metrics.captions, clipfeat.train.data.caption_files",
            {"torch", "jaxtyping", "matplotlib"},
        ),
        ("import clipfeat.train.metrics.cider", {"torch", "pycocoevalcap"}),
        (
            "import clipfeat.train.pictures.attention, clipfeat.train.pictures.curves",
            {"torch", "PIL", "matplotlib"},
        ),
        ("import clipfeat.train.compare", {"torch", "matplotlib"}),
        (
            "import clipfeat.train.data.lxmert, clipfeat.train.data.corpus",
            {"torch", "jaxtyping"},
        ),
    ],
)
def test_what_an_import_brings_along(code, absent):
    code = f"import sys; {code}; print(*{absent!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
