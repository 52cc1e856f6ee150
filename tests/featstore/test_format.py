"""The digest as docs/store-format.md defines it, and the values it runs over."""

import hashlib

import pytest
from refused import refuses
from stores import make_identity

from clipfeat.featstore import GridShape, Identity, IndexRow, StoreError
from clipfeat.featstore.metadata import differences, store_digest
from clipfeat.featstore.shards import ShardRow
from clipfeat.featstore.tables import index_batch, index_lines


def test_the_digest_by_hand():
    identity = make_identity(dim=8)
    shards = [
        ShardRow("features.zarr/1x1/grid/c.1.0.0.0", 5, "bb", "1x1", 4, 1),
        ShardRow("features.zarr/1x1/grid/c.0.0.0.0", 9, "aa", "1x1", 0, 4),
    ]
    index = [IndexRow("é", "ok", "", "1x1", 0, 640, 480, "cc", "é.jpg", "0a1b2c3d", "ab" * 16)]
    written_out = (
        b'{"backbone":{"model":"test"},"codec":"zstd","derived_from":null,"dim":8,'
        b'"dtype":"float16","format":2,"mantissa_bits":null,"order":"channels_last",'
        b'"pooled_dim":null,"precision":"float32","recipe":{"name":"test"},"regions":[],'
        b'"scale_sha256":null}\n'
        b'["features.zarr/1x1/grid/c.0.0.0.0","aa"]\n'
        b'["features.zarr/1x1/grid/c.1.0.0.0","bb"]\n'
        b'["\\u00e9","ok","","1x1",0,640,480,"cc","\\u00e9.jpg","0a1b2c3d",'
        b'"abababababababababababababababab"]\n'
    )
    assert (
        store_digest(identity, shards, [index_lines(index_batch(index))])
        == hashlib.sha256(written_out).hexdigest()
    )


def test_identity_survives_json_and_refuses_nonsense():
    identity = make_identity(dim=8, pooled_dim=4)
    assert Identity.from_json(identity.to_json()) == identity
    for change, named in (
        ({"dtype": "object"}, ("identity.dtype", "float16, float32, uint8", "'object'")),
        ({"codec": "pickle"}, ("identity.codec", "none, zstd")),
        ({"dim": 10**9}, ("identity.dim", "65536")),
        ({"dim": True + 0.5}, ("identity.dim", "1.5")),
        ({"recipe": "x"}, ("identity.recipe", "'x'")),
        ({"mantissa_bits": 10}, ("identity.mantissa_bits", "10")),
        ({"mantissa_bits": 7, "dtype": "float32"}, ("identity.mantissa_bits", "float32")),
        ({"dtype": "uint8"}, ("identity.scale_sha256", "uint8")),
        ({"scale_sha256": "0" * 64}, ("identity.scale_sha256", "uint8")),
        ({"derived_from": {"digest": "x"}}, ("identity.derived_from",)),
        ({"more": 1}, ("identity", "'more'")),
    ):
        with refuses("E-STORE-IDENTITY", *named, kind=StoreError):
            Identity.from_json({**identity.to_json(), **change})
    with refuses("E-STORE-IDENTITY", "identity.dtype", "'object'", kind=StoreError):
        make_identity(8, dtype="object")


def test_differences_name_the_nested_value():
    stored = {"recipe": {"height": 448, "name": "a"}, "dim": 8}
    wanted = {"recipe": {"height": 224, "name": "a"}, "dim": 8}
    assert list(differences(stored, wanted)) == ["recipe.height is 448 in the store, 224 asked for"]


def test_differences_lead_into_lists_of_objects():
    stored = {"steps": [{"step": "stretch", "height": 64}, {"step": "rgb"}], "mean": [0.5, 0.5]}
    wanted = {"steps": [{"step": "stretch", "height": 96}, {"step": "rgb"}], "mean": [0.5, 0.25]}
    assert list(differences(stored, wanted)) == [
        "mean is [0.5, 0.5] in the store, [0.5, 0.25] asked for",
        "steps.0.height is 64 in the store, 96 asked for",
    ]
    # A list with an object more, wherever that is, differs in this object alone.
    turned = {"steps": [{"step": "upright"}, *stored["steps"]], "mean": [0.5, 0.5]}
    assert list(differences(stored, turned)) == [
        "steps is [] in the store, [{'step': 'upright'}] asked for"
    ]


@pytest.mark.parametrize("text", ["14", "14x", "x14", "14x14x14", "-1x3", "\u0661x\u0662", ""])
def test_grid_shape_refuses(text):
    with refuses("E-STORE-SHAPE", repr(text), kind=StoreError):
        GridShape.parse(text)
