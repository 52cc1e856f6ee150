"""Images in archives give the records of the same images in a folder, whoever decodes them."""

import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import write_photographs

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.manifests import folder_manifest

CONFIG = ExtractConfig(
    model="RN50", pretrained="none", recipe="square:64", device="cpu", batch_size=4, decoders=2
)


def packed(folder, out):
    """Write the images of a folder as a zip, a compressed tar and a Parquet file, and yield each."""
    files = sorted(folder.iterdir())
    for name in ("zip", "tgz", "parquet"):
        (out / name).mkdir()
    with zipfile.ZipFile(out / "zip/s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    with tarfile.open(out / "tgz/s.tar.gz", "w:gz") as archive:
        for path in files:
            archive.add(path, path.name)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    pq.write_table(pa.table({"image": images}), out / "parquet/s.parquet", row_group_size=4)
    return [out / name for name in ("zip", "tgz", "parquet")]


@pytest.mark.usefixtures("one_backbone")
def test_records_are_those_of_the_folder(tmp_path):
    folder = write_photographs(tmp_path / "images", 10)
    plain = extract_images(folder_manifest(folder), tmp_path / "plain", CONFIG).store
    assert plain is not None
    for source in packed(folder, tmp_path):
        report = extract_images(folder_manifest(source), tmp_path / f"of-{source.name}", CONFIG)
        store = report.store
        assert store is not None
        assert not report.refused
        for row, other in zip(store.index, plain.index, strict=True):
            assert (row.image_id, row.source_sha256) == (other.image_id, other.source_sha256)
            np.testing.assert_array_equal(store[row.image_id], plain[row.image_id])
