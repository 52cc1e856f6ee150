"""clipfeat import and export of folders and databases, as they are typed."""

import numpy as np
from command_lines import run_here as clipfeat
from published_files import read_uniter, read_vqa, write_mmf_npy
from published_tables import some_regions

from clipfeat.manifests import Image, Images, Manifest, write_manifest

IMAGES = some_regions([f"COCO_val2014_{n:012}" for n in range(3)])


def test_a_folder_to_others(tmp_path):
    store = tmp_path / "s.clipfeat"
    done = clipfeat("import", write_mmf_npy(tmp_path / "a", IMAGES), "--as", "mmf-npy", "-o", store)
    assert done.returncode == 0, done.stderr
    done = clipfeat("export", store, "--as", "openvqa-npz", "-o", tmp_path / "b")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("[E-IMPORT-LAYOUT]")
    assert not (tmp_path / "b").exists()
    options = ("--as", "openvqa-npz", "--layout", "vqa", "-o", tmp_path / "b")
    assert clipfeat("export", store, *options).returncode == 0
    read = read_vqa(tmp_path / "b")
    assert all(np.array_equal(read[str(n)], image.features) for n, image in enumerate(IMAGES))


def test_a_database_with_sizes(tmp_path):
    store, database = tmp_path / "s.clipfeat", tmp_path / "all_compressed"
    clipfeat("import", write_mmf_npy(tmp_path / "a", IMAGES), "--as", "mmf-npy", "-o", store)
    done = clipfeat("export", store, "--as", "uniter-lmdb", "-o", database)
    assert done.returncode == 0, done.stderr
    assert len(read_uniter(database)) == 3
    done = clipfeat("import", database, "--as", "uniter-lmdb", "-o", tmp_path / "t")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("[E-IMPORT-SIZES]")
    images = [Image(i.image_id, f"{i.image_id}.jpg", i.width, i.height) for i in IMAGES]
    write_manifest(Manifest(".", Images.of(images)), tmp_path / "sizes.parquet")
    options = ("--sizes", tmp_path / "sizes.parquet", "--strict")
    done = clipfeat("import", database, "--as", "uniter-lmdb", "-o", tmp_path / "t", *options)
    assert done.returncode == 0, done.stderr
