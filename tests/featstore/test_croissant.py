"""croissant.json by rules of its own; check_mlcroissant.py compares it with the format's library."""

import hashlib
import json
import re
from pathlib import PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import pytest
from stores import make_store
from test_regions import write_regions

from clipfeat.featstore import FeatureStore, convert, describe
from clipfeat.featstore.card.write import write_card

RECORDS = {f"i{k}": np.full((2, 2, 4), k, np.float16) for k in range(9)}


def plain(tmp_path):
    return make_store(
        tmp_path / "plain",
        {**RECORDS, "gone": None},
        backbone={"model": "m", "weights_sha256": "a" * 64},
    )


def described(tmp_path):
    path = make_store(tmp_path / "described", RECORDS)
    describe(
        path, {"title": "T", "licence": "CC0", "citation": "C", "homepage": "https://example.org"}
    )
    return path


def of_uint8(tmp_path):
    source = FeatureStore.open(make_store(tmp_path / "source", RECORDS))
    return convert(source, tmp_path / "uint8", dtype="uint8").path


def of_regions(tmp_path):
    return write_regions(tmp_path / "regions", ("boxes", "classes"))[0].path


def imported(tmp_path):
    backbone = {"model": "imported", "format": "x", "source_sha256": ["b" * 64, "c" * 64]}
    return make_store(tmp_path / "imported", RECORDS, backbone=backbone)


@pytest.fixture(params=[plain, described, of_uint8, of_regions, imported])
def path(request, tmp_path):
    path = request.param(tmp_path)
    write_card(path)
    return path


def read(path):
    return json.loads((path / "croissant.json").read_bytes())


def test_every_file_object_is_a_file_with_that_sha256(path):
    content = read(path)
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    objects = [each for each in content["distribution"] if each["@type"] == "cr:FileObject"]
    names = {each["contentUrl"] for each in objects}
    assert {"store.json", "index.parquet", "shards.parquet", "lookup.bin"} <= names
    assert ("features.zarr/scale/c.0.0" in names) == (FeatureStore.open(path).scale is not None)
    for each in objects:
        assert set(each) == {
            "@type", "@id", "name", "description", "contentUrl", "encodingFormat", "sha256",
        }  # fmt: skip
        assert (
            each["sha256"] == hashlib.sha256((path / each["contentUrl"]).read_bytes()).hexdigest()
        )


def test_the_file_set_has_the_shards_and_no_checksum(path):
    (shards,) = [each for each in read(path)["distribution"] if each["@type"] == "cr:FileSet"]
    assert not {"sha256", "md5"} & set(shards)
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    matched = {name for name in files if PurePosixPath(name).match(shards["includes"])}
    assert matched == {shard.path for shard in FeatureStore.open(path).shards}


def test_the_record_set_is_the_index(path):
    content = read(path)
    (index,) = content["recordSet"]
    columns = pq.read_schema(path / "index.parquet")
    assert [field["name"] for field in index["field"]] == columns.names
    for field in index["field"]:
        kind = str(columns.field(field["name"]).type)
        assert field["dataType"] == ("sc:Integer" if kind.startswith("int") else "sc:Text")
        assert field["source"] == {
            "fileObject": {"@id": "index.parquet"},
            "extract": {"column": field["name"]},
        }
    assert index["key"] == {"@id": "index/image_id"}


def test_names_are_unique_and_nothing_is_guessed(path):
    content, store = read(path), FeatureStore.open(path)
    ids = re.findall(r'"@id": "([^"]+)",\s+"name"', json.dumps(content, indent=1))
    assert len(ids) == len(set(ids))
    assert content.get("license") == store.metadata.about.licence
    assert content.get("url") == store.metadata.about.homepage
    assert content["identifier"] == f"sha256:{store.digest}"
    assert not {"creator", "publisher"} & set(content)


def test_origins_are_named(tmp_path):
    origins = {
        make: [each["@id"] for each in read_of(make, tmp_path).get("prov:wasDerivedFrom", [])]
        for make in (plain, of_uint8, imported)
    }
    source = FeatureStore.open(tmp_path / "source").digest
    assert origins == {
        plain: [f"urn:sha256:{'a' * 64}"],
        of_uint8: [f"urn:sha256:{source}"],
        imported: [f"urn:sha256:{'b' * 64}", f"urn:sha256:{'c' * 64}"],
    }


def read_of(make, tmp_path):
    path = make(tmp_path)
    write_card(path)
    return read(path)
