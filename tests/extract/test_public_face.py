"""`clipfeat.extract` as a library: its names, a plain script, and the checks of its config."""

import subprocess
import sys

import pytest
from pictures import write_photographs
from refused import refuses

import clipfeat.extract
from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract import ExtractConfig
from clipfeat.featstore import FeatureStore
from clipfeat.featstore.layout import Part

SCRIPT = """
import sys
from pathlib import Path

import clipfeat.extract

assert not {"torch", "open_clip", "pyarrow", "PIL"} & set(sys.modules)

from clipfeat.extract import ExtractConfig, Recipe, UsageError, extract_images
from clipfeat.manifests import folder_manifest

manifest = folder_manifest(Path("images"))
config = ExtractConfig(model="RN50", pretrained="none", recipe="square:64", device="cpu")
report = extract_images(manifest, Path("photos.clipfeat"), config)
print(report.images, report.store["p001"].shape)
print(Recipe.from_json(report.store.identity.recipe).name)
try:
    extract_images(manifest, Path("other.clipfeat"), ExtractConfig(model="RN51", device="cpu"))
except UsageError as error:
    print(error.exit_code)
"""


def test_the_exported_names():
    assert clipfeat.extract.__all__ == [
        "ExtractConfig",
        "ExtractError",
        "ExtractReport",
        "Recipe",
        "UsageError",
        "extract_images",
    ]
    for name in clipfeat.extract.__all__:
        assert getattr(clipfeat.extract, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = clipfeat.extract.nothing


def test_a_plain_script_extracts_images(tmp_path):
    write_photographs(tmp_path / "images", 3)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["3 (2, 2, 2048)", "square:64", "2"], done.stderr
    assert len(FeatureStore.open(tmp_path / "photos.clipfeat")) == 3
    assert not (tmp_path / "other.clipfeat").exists()


IMPOSSIBLE = [
    {"layer": "last"},
    {"vector": "pooled"},
    {"decoder": "device"},
    {"device": "gpu"},
    {"precision": "float64"},
    {"dtype": "bfloat16"},
    {"codec": "lz4"},
    {"procs": None},
    {"batch_size": 0},
    {"decoders": 2.0},
    {"max_pixels": True},
    {"scheduler": ""},
    {"shard_size": 1 << 21},
    {"retry": "missing"},
    {"retry": ("ok",)},
]
CONSTRUCT = """
import ast
import sys

from clipfeat.extract import ExtractConfig, UsageError

for options in ast.literal_eval(sys.argv[1]):
    try:
        ExtractConfig(model="RN50", **options)
    except UsageError as error:
        print(error.code, error)
assert "torch" not in sys.modules
"""


def test_values_that_an_option_cannot_have():
    """In another process: in this one, tests check the types of all arguments."""
    command = [sys.executable, "-c", CONSTRUCT, repr(IMPOSSIBLE)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, options in zip(lines, IMPOSSIBLE, strict=True):
        ((option, value),) = options.items()
        assert line.startswith(f"E-CONFIG-VALUE {option}: expected "), line
        assert line.endswith(f"; got {value!r}"), line


@pytest.mark.parametrize(
    "options",
    [
        {"gpus": "1", "device": "cpu"},
        {"procs": 2},
        {"procs": 2, "device": "cuda"},
        {"scheduler": "tcp://host:8786", "device": "cuda"},
        {"scheduler": "tcp://host:8786", "part": Part(1, 2)},
    ],
)
def test_options_that_exclude_each_other(options):
    with refuses("E-CONFIG-CONFLICT", kind=ExtractUsageError):
        ExtractConfig(model="RN50", **options)
