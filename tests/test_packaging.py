"""The wheel is whole, arrows point one way, and light commands stay light."""

import ast
import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# Who may import whom; `base` is the floor, `cli` the roof.
ARROWS = {
    "base": set(),
    "manifests": {"base"},
    "featstore": {"base"},
    "extract": {"base", "manifests", "featstore"},
    "train": {"base", "manifests", "featstore"},
    "demo": {"base", "manifests", "featstore", "extract", "train"},
    "view": {"base", "manifests", "featstore", "extract", "train"},
    "cli": {"base", "manifests", "featstore", "extract", "train", "demo", "view"},
}
# The same inside a room; the files beside these folders are what others use.
INNER_ARROWS = {
    ("featstore", "writing"): set(),
    ("featstore", "audit"): {"writing"},
    ("featstore", "deriving"): {"writing", "audit"},
    ("featstore", "exchange"): {"writing", "deriving"},
    ("featstore", "report"): set(),
    ("featstore", "card"): {"writing", "report"},
    ("featstore", "sharing"): {"writing", "audit", "report", "card"},
    ("extract", "planning"): set(),
    ("extract", "pixels"): {"planning"},
    ("extract", "backbones"): {"planning"},
    ("extract", "executors"): {"planning", "pixels", "backbones"},
    ("train", "metrics"): set(),
    ("train", "data"): {"metrics"},
    ("train", "models"): {"data"},
    ("train", "navigation"): {"data", "metrics"},
    ("train", "tasks"): {"data", "metrics", "models", "navigation"},
}
FORBIDDEN = {
    "featstore": {"torch", "open_clip", "PIL", "matplotlib"},
    "manifests": {"torch", "open_clip", "matplotlib"},
    "train": {"PIL", "open_clip", "matplotlib", "torchvision"},
    "view": {"PIL", "open_clip", "matplotlib"},
}
# The only files of train that may import matplotlib.
FIGURES = {
    ROOT / "train" / "figures.py",
    ROOT / "train" / "attention_maps.py",
    ROOT / "train" / "navigation" / "maps.py",
    ROOT / "train" / "navigation" / "strips.py",
}


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


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def release(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist of the tracked files, and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("release")
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def test_the_wheel_has_every_module_and_preset(release: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(next(release.glob("*.whl"))) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    in_rooms = {name for name in tracked if name.partition("/")[0] in ARROWS}
    sources = {name for name in in_rooms if name.startswith("view/frontend/")}  # of view/page
    assert files == {f"clipfeat/{name}" for name in in_rooms - sources}
    assert {f"clipfeat/{room}/py.typed" for room in ARROWS} <= files
    assert any(name.endswith("/default.toml") for name in files)


def test_the_version_is_that_of_setup_cfg(release: Path, setup_cfg) -> None:
    version = setup_cfg["metadata"]["version"]
    assert {path.name for path in release.iterdir()} == {
        f"clipfeat-{version}.tar.gz",
        f"clipfeat-{version}-py3-none-any.whl",
    }
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "CHANGELOG.md").read_text().startswith(f"# Changelog\n\n## {version} ")


def test_the_minimum_versions_are_the_lower_bounds_of_setup_cfg(setup_cfg) -> None:
    """Of each package the highest, where several extras have one; the peers of `bench` stand apart."""
    extras = dict(setup_cfg["options.extras_require"])
    del extras["bench"]
    lines = "\n".join([setup_cfg["options"]["install_requires"], *extras.values()]).split("\n")
    lowest: dict[str, Version] = {}
    for requirement in map(Requirement, filter(None, lines)):
        for bound in requirement.specifier:
            if bound.operator == ">=":
                version = Version(bound.version)
                lowest[requirement.name] = max(version, lowest.get(requirement.name, version))
    pins = (ROOT / "constraints-minimum.txt").read_text().splitlines()
    pairs = [line.split("==") for line in pins if not line.startswith("#")]
    assert {name: Version(version) for name, version in pairs} == lowest


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_point_one_way(room):
    for file in (ROOT / room).rglob("*.py"):
        names = imports_of(file)
        rooms = {n.split(".")[1] for n in names if n.startswith("clipfeat.")}
        assert rooms - {room} <= ARROWS[room], file
        outside = {name.split(".")[0] for name in names}
        allowed = {"matplotlib"} if file in FIGURES else set()
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
        ("import clipfeat.featstore", {"urllib3", "obstore"}),
        ("import clipfeat.view.open, clipfeat.view.server", {"torch", "dask", "PIL"}),
        ("import clipfeat.extract.pixels.decoding", {"torch", "pandas"}),
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
            "import clipfeat.train.attention_maps, clipfeat.train.figures",
            {"torch", "PIL", "matplotlib"},
        ),
        ("import clipfeat.train.compare", {"torch", "matplotlib"}),
        (
            "import clipfeat.train.navigation.evaluation, clipfeat.train.navigation.page",
            {"torch", "matplotlib"},
        ),
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
