"""Regions and grids for tests of import and export, and what a store of them must hold."""

import numpy as np
from published_tables import some_regions

from clipfeat.featstore import Depth, verify
from clipfeat.featstore.exchange import Options, import_features, open_reader

IMAGES = some_regions([f"COCO_val2014_{n:012}" for n in (42, 73, 74, 133, 136, 139, 1000)])
IDS = [image.image_id for image in IMAGES]
SIZES = {image.image_id: (image.width, image.height) for image in IMAGES}
ALL, BOXES, SCORED = ("boxes", "classes", "scores"), ("boxes",), ("boxes", "scores")
RNG = np.random.default_rng(0)
GRIDS = {
    str(n): RNG.standard_normal((rows, cols, 6)).astype(np.float32)
    for n, rows, cols in ((1, 2, 3), (2, 3, 2), (42, 1, 4), (43, 2, 3))
}


def imported(source, name, out, **options):
    """Import a source; return the store, verified."""
    reader = open_reader(name, [source], Options(**options))
    report = import_features(reader, out, sizes=options.get("sizes"), shard_size=2)
    reader.close()
    assert verify(out, Depth.DEEP) == []
    return report.store


def refused_rows(store):
    """Return the reasons of the ids without a record."""
    return {row.image_id: row.reason for row in store.index if row.status != "ok"}


def check_regions(store, regions, *, name=lambda image_id: image_id, sized=True):
    """Assert that a store holds IMAGES to the bit."""
    assert store.identity.regions == regions
    assert store.ids == tuple(sorted(map(name, IDS)))
    batch = store.read([name(image_id) for image_id in IDS])
    rows = {row.image_id: row for row in store.index}
    for k, image in enumerate(IMAGES):
        n = len(image.boxes)
        row = rows[name(image.image_id)]
        assert row.shape == f"{n}x1"
        assert len(row.source_sha256) == 64
        if sized:
            assert (row.width, row.height) == (image.width, image.height)
        assert np.array_equal(batch.features[k, :n], image.features)
        for region in regions:
            assert np.array_equal(getattr(batch, region)[k, :n], getattr(image, region)), region


def same_arrays(store, other):
    """Return whether two stores have the same bits and sizes for the same ids."""
    rows, others = (
        [(r.image_id, r.status, r.shape, r.width, r.height, r.record_sha256) for r in s.index]
        for s in (store, other)
    )
    return rows == others
