"""The worked examples of docs/store-format.md hold, and the reader printed there reads."""

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from stores import make_identity, make_store, padded_store

from clipfeat.featstore import FeatureStore, GridShape
from clipfeat.featstore.geometry import (
    BILINEAR,
    ImageTransform,
    Pad,
    ResizeStep,
    real_area,
)
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.metadata import zarr_metadata_files

DOC = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text()


def block(heading: str, language: str = "") -> str:
    """Return the last code block of a section."""
    section = DOC.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[-1]


def documented_reader() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block("Reading one record", "python"), names)
    return names


@pytest.fixture
def drawn(tmp_path):
    """The store whose shard, lookup and digest the document shows."""
    return make_store(tmp_path / "s", {"b": None, "é": np.array([[[1, 2]]], np.float16)}, "none", 2)


@pytest.mark.parametrize("codec", ["zstd", "none"])
class TestReader:
    @pytest.mark.parametrize("order", ["channels_first", "channels_last"])
    def test_it_reads_what_was_written(self, tmp_path, codec, order):
        rng = np.random.default_rng(0)
        records = {f"é{k}": rng.standard_normal((2, 3, 5)).astype(np.float16) for k in range(7)}
        records["wide"] = rng.standard_normal((2, 10, 5)).astype(np.float16)
        store = make_store(tmp_path / "s", {**records, "gone": None}, codec, 3, order=order)
        read_record = documented_reader()["read_record"]
        for image_id, grid in records.items():
            assert read_record(store, image_id) == tuple(grid.ravel().tolist())
        with pytest.raises(KeyError, match="no record: missing"):
            read_record(store, "gone")
        with pytest.raises(KeyError, match="no such id"):
            read_record(store, "other")

    def test_it_finds_two_shards_swapped(self, tmp_path, codec):
        records = {f"i{k}": np.full((1, 1, 4), k, np.float16) for k in range(4)}
        store = make_store(tmp_path / "s", records, codec, 2)
        one, two = (store / f"features.zarr/1x1/grid/c.{k}.0.0.0" for k in (0, 1))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
        with pytest.raises(AssertionError, match="another image's record, or changed bytes"):
            documented_reader()["read_record"](store, "i1")


def test_the_digest_example(drawn):
    lines = block("The digest")
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert f"`{digest}`" in DOC
    assert FeatureStore.open(drawn).digest == digest
    shard = (drawn / "features.zarr/1x1/grid/c.0.0.0.0").read_bytes()
    assert json.loads(lines.splitlines()[1])[1] == hashlib.sha256(shard).hexdigest()


def test_the_shard_example(drawn):
    shard = (drawn / "features.zarr/1x1/grid/c.0.0.0.0").read_bytes()
    assert (shard[:4].hex(), shard[4:8].hex(), shard[40:].hex()) == (
        "003c0040",
        "3a4a753e",
        "6379cc8d",
    )
    for content, check in ((shard[:4], shard[4:8]), (shard[8:40], shard[40:])):
        assert documented_reader()["crc32c"](content) == int.from_bytes(check, "little")
        assert check.hex() in block("A shard file")
    assert struct.unpack("<4Q", shard[8:40]) == (2**64 - 1, 2**64 - 1, 0, 8)


def test_the_lookup_example(drawn):
    rows = re.findall(r"^ *\d+ +([0-9a-f]{16})(?:  ([0-9a-f]{16}))? ", block("lookup.bin"), re.M)
    shown = bytes.fromhex("".join(map("".join, rows)))
    assert (drawn / "lookup.bin").read_bytes() == shown
    mix = documented_reader()["mix"]
    entries = []
    for image_id, place, check in (("b", 1 << 52, 0), ("é", 1, 0x3E754A3A)):
        key, second = struct.unpack(">QQ", hashlib.sha256(image_id.encode()).digest()[:16])
        entries.append((key, place, check, second ^ mix(place ^ mix(check))))
    columns = [value for column in zip(*sorted(entries), strict=True) for value in column]
    assert struct.pack("<8s9Q", b"clipfeat", 2, *columns) == shown
    for value in (mix(1), mix(check), mix(1 ^ mix(check)), entries[1][3]):
        assert f"`{value:016x}`" in DOC
    digest = hashlib.sha256("é".encode()).hexdigest()
    assert f"`{digest[:16]} {digest[16:32]}`" in DOC


PRETRAIN = [
    {"step": "shortest-maskrcnn", "side": 384, "longest": 640, **BILINEAR},
    {"step": "rgb"},
    {"step": "pad", "height": 384, "width": 640, "turn": True, "odd": "first", "cell": [32, 32]},
]


class TestMask:
    def test_the_worked_examples(self):
        section = DOC.split("\n## The mask\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d.*) \|$", section, re.MULTILINE)
        shrink, _, pad = steps = msgspec.convert(PRETRAIN, list[ImageTransform])
        assert len(rows) == 7
        assert isinstance(pad, Pad)
        for row in rows:
            size, before, frame, corner, area = row.split(" | ")
            width, height = map(int, size.split(" x "))
            resized = shrink.size((width, height))
            assert before == "{} x {}".format(*resized)
            assert frame == "{} x {}".format(*pad.size(resized))
            assert corner == "{}, {}".format(*pad.corner(resized))
            real = real_area(steps, (width, height))
            assert area == (f"`{real}`" if real else "none: all cells")

    def test_the_documented_reader_reads_it(self, tmp_path):
        sizes = {"a": (640, 480), "b": (640, 384), "c": (1000, 300)}
        recipe = {"name": "pretrain384", "steps": PRETRAIN}
        store = padded_store(tmp_path / "s", recipe, sizes, GridShape(12, 20))
        names = documented_reader()
        for image_id in sizes:
            assert names["read_mask"](store.path, image_id) == store.mask(image_id).tolist()
            assert len(names["read_record"](store.path, image_id)) == 12 * 20 * 4
        section = DOC.split("\n## store.json\n")[1].split("\n`identity` has")[0]
        keys = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", section, re.M)))
        assert keys == list(store.metadata.to_json())


def test_every_step_is_documented_with_its_keys():
    section = DOC.split("\n| `step` | keys |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|([^|]*)\|", section, re.MULTILINE)
    documented = {name: re.findall(r"`(\w+)`", keys) for name, keys in rows}
    added = DOC.split("\n| key | value | meaning |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", added, re.MULTILINE) == list(BILINEAR)
    for kind in get_args(ImageTransform):
        keys = documented.pop(kind.__struct_config__.tag)
        keys += BILINEAR if issubclass(kind, ResizeStep) else []
        assert keys == list(kind.__struct_fields__)
    assert not documented


def test_the_fingerprint_example():
    shown, digest = re.findall(r"sha256 of `(2\[.*\])`,\n +`([0-9a-f]{64})`", DOC)[0]
    assert hashlib.sha256(shown.encode()).hexdigest() == digest
    assert (
        lay_out(Grids.of({"b": GridShape(1, 1), "é": GridShape(1, 1)}), 2).fingerprint() == digest
    )


def test_the_zarr_example():
    files = zarr_metadata_files(make_identity(2048), {"14x14": 300}, 128)
    shown = json.loads(block("Zarr metadata", "json"))
    assert files["features.zarr/14x14/grid/zarr.json"].decode() == json.dumps(shown, indent=2)


def test_store_json_is_written_as_documented(drawn):
    text = (drawn / "store.json").read_text()
    card = json.loads(text)
    assert json.dumps(card, indent=2) == text
    section = DOC.split("\n## store.json\n")[1].split("\n`identity` has")[0]
    keys = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", section, re.M)))
    assert [key for key in keys if key != "areas"] == list(card)
    for table, digest in card["tables"].items():
        file = drawn / (f"{table}.bin" if table == "lookup" else f"{table}.parquet")
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
