"""Asks mlcroissant, the library of the format, about croissant.json of each kind of store.

It is not among the packages of the tests, since it needs scipy, pandas and rdflib. To run it:

    pip install mlcroissant
    pytest -n 0 tests/featstore/check_mlcroissant.py
"""

import mlcroissant  # type: ignore[reportMissingImports]
import pytest
from test_croissant import path  # noqa: F401  # the fixture: stores of five kinds

from clipfeat.featstore import FeatureStore


@pytest.mark.filterwarnings("default")  # of rdflib and pandas, about how it calls them
def test_it_is_accepted_and_its_index_is_read(path):  # noqa: F811
    dataset = mlcroissant.Dataset(jsonld=str(path / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    ids = [record["index/image_id"].decode() for record in dataset.records("index")]
    assert ids == [row.image_id for row in FeatureStore.open(path).index]
