"""Flipped bits and cut ends anywhere in a source: a reason for the images they hit, and no crash."""

import random

import numpy as np
import pytest
import torch
from published_files import (
    npy,
    write_bua,
    write_captioning,
    write_gqa,
    write_m2,
    write_mmf_lmdb,
    write_mmf_npy,
    write_tar,
    write_uniter,
    write_vqa,
)
from published_tables import some_regions

from clipfeat.base.errors import UsageError
from clipfeat.featstore.exchange import Options, open_reader

IMAGES = some_regions([f"COCO_val2014_{n:012}" for n in range(4)], dim=4)
SIZES = {image.image_id: (image.width, image.height) for image in IMAGES}


def write_grids(folder):
    folder.mkdir()
    for k in range(4):
        for archive in (True, False):
            path = folder / f"{k}{archive}.pth"
            torch.save(torch.zeros(1, 2, 3, 4), path, _use_new_zipfile_serialization=archive)
    return folder


def write_samples(folder):
    folder.mkdir()
    files = {f"{k}.npy": npy(np.zeros((2, 4), np.float32)) for k in range(4)}
    files |= {f"{k}.json": b'{"width": 3, "height": 4}' for k in range(4)}
    write_tar(folder / "0.tar", files)
    return folder


def write_embeddings(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", np.zeros((4, 8), np.float16))
    table = pa.table({"image_path": list("abcd")})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


WRITERS = {
    "mmf-npy": (lambda p: write_mmf_npy(p, IMAGES), Options()),
    "mmf-lmdb": (lambda p: write_mmf_lmdb(p, IMAGES), Options()),
    "grid-feats": (write_grids, Options()),
    "captioning-npz": (lambda p: write_captioning(p, IMAGES), Options()),
    "openvqa-npz": (lambda p: write_vqa(p, IMAGES), Options(layout="vqa")),
    "openvqa-npz of GQA": (lambda p: write_gqa(p, IMAGES), Options(layout="gqa")),
    "bua-npz": (lambda p: write_bua(p, IMAGES), Options()),
    "m2-hdf5": (lambda p: write_m2(p.with_suffix(".hdf5"), IMAGES), Options()),
    "uniter-lmdb": (lambda p: write_uniter(p, IMAGES, compress=True), Options(sizes=SIZES)),
    "uniter-lmdb of msgpack": (
        lambda p: write_uniter(p, IMAGES, compress=False),
        Options(sizes=SIZES),
    ),
    "clip-retrieval": (write_embeddings, Options()),
    "webdataset": (write_samples, Options(layout="hwc")),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 4, 40])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.2:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("name", WRITERS)
def test_random_damage(name, tmp_path):
    write, options = WRITERS[name]
    source = write(tmp_path / "source")
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    contents = {path: path.read_bytes() for path in files}
    for seed in range(60):
        rng = random.Random(seed)
        path = rng.choice(files)
        path.write_bytes(damaged(contents[path], rng))
        try:
            reader = open_reader(name.partition(" ")[0], [source], options)
            for item in reader.items():
                if not item.problem:
                    try:
                        reader.read(item)
                    except (ValueError, OSError):
                        continue
            reader.close()
        except UsageError:
            continue
        finally:
            path.write_bytes(contents[path])
