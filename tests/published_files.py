"""Feature files as the published programs write and read them, restated with numpy and their libraries."""

import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
from published_tables import Regions

CLASSES = 1600


def probabilities(image: Regions) -> np.ndarray:
    """Return a matrix whose largest entry in each row is the region's class and score."""
    cls_prob = np.zeros((len(image.scores), CLASSES), np.float32)
    cls_prob[np.arange(len(image.scores)), image.classes] = image.scores
    return cls_prob


def mmf_info(image: Regions) -> dict[str, Any]:
    return {
        "bbox": image.boxes,
        "num_boxes": len(image.boxes),
        "objects": image.classes,
        "cls_prob": probabilities(image),
        "image_width": image.width,
        "image_height": image.height,
    }


def write_mmf_npy(folder: Path, images: Iterable[Regions]) -> Path:
    folder.mkdir()
    for image in images:
        np.save(folder / f"{image.image_id}.npy", image.features)
        np.save(folder / f"{image.image_id}_info.npy", mmf_info(image))  # pyright: ignore
    return folder


def read_mmf_npy(folder: Path, image_id: str) -> dict[str, Any]:
    """PaddedFasterRCNNFeatureReader._load."""
    path = str(folder / f"{image_id}.npy")
    item = {"features": np.load(path, allow_pickle=True)}
    item.update(np.load(path.split(".npy")[0] + "_info.npy", allow_pickle=True).item())
    return item


def write_mmf_lmdb(
    folder: Path, images: Iterable[Regions], protocol: int = pickle.DEFAULT_PROTOCOL
) -> Path:
    """LMDBConversion.convert."""
    env = lmdb.open(str(folder), map_size=1 << 28)
    ids = []
    with env.begin(write=True) as txn:
        for image in images:
            item = {"feature_path": image.image_id, "features": image.features, **mmf_info(image)}
            ids.append(image.image_id.encode())
            txn.put(ids[-1], pickle.dumps(item, protocol))
        txn.put(b"keys", pickle.dumps(ids, protocol))
    env.close()
    return folder


def read_mmf_lmdb(folder: Path) -> dict[str, dict[str, Any]]:
    """LMDBFeatureReader."""
    env = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    with env.begin(write=False, buffers=True) as txn:
        keys = pickle.loads(txn.get(b"keys"))
        found = {key.decode(): pickle.loads(txn.get(key)) for key in keys}
    env.close()
    return found


def write_captioning(root: Path, images: Iterable[Regions]) -> Path:
    """make_bu_data.py."""
    for ending in ("att", "box", "fc"):
        (root / f"cocobu_{ending}").mkdir(parents=True)
    for image in images:
        np.savez_compressed(root / "cocobu_att" / image.image_id, feat=image.features)
        np.save(root / "cocobu_fc" / image.image_id, image.features.mean(0))
        np.save(root / "cocobu_box" / image.image_id, image.boxes)
    return root / "cocobu_att"


def read_captioning(folder: Path, key: str) -> np.ndarray:
    """HybridLoader.get."""
    x = np.load(io.BytesIO((folder / f"{key}.npz").read_bytes()))
    return x["feat"] if "feat" in x else x["z"]


def write_vqa(folder: Path, images: Iterable[Regions]) -> Path:
    folder.mkdir()
    for image in images:
        np.savez(
            folder / f"{image.image_id}.jpg.npz",
            x=image.features.T,
            bbox=image.boxes,
            num_bbox=len(image.boxes),
            image_w=image.width,
            image_h=image.height,
        )
    return folder


def read_vqa(folder: Path) -> dict[str, np.ndarray]:
    """openvqa's vqa_loader.py: img_feat_path_load and load_img_feats."""
    paths = {
        str(int(str(p).split("/")[-1].split("_")[-1].split(".")[0])): p
        for p in folder.glob("*.npz")
    }
    return {iid: np.load(path)["x"].transpose((1, 0)) for iid, path in paths.items()}


def write_gqa(folder: Path, images: Iterable[Regions]) -> Path:
    folder.mkdir()
    for image in images:
        size = {"width": image.width, "height": image.height}
        np.savez(folder / f"{image.image_id}.npz", x=image.features, bbox=image.boxes, **size)
    return folder


def read_gqa(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """openvqa's gqa_loader.py: features, and the fractions that proc_spat_feat computes."""
    found = {}
    for path in folder.glob("*.npz"):
        frcn = np.load(path)
        width, height, bbox = frcn["width"], frcn["height"], frcn["bbox"]
        spat = np.zeros((bbox.shape[0], 5), dtype=np.float32)
        for k, side in enumerate((width, height, width, height)):
            spat[:, k] = bbox[:, k] / float(side)
        spat[:, 4] = (bbox[:, 2] - bbox[:, 0]) * (bbox[:, 3] - bbox[:, 1]) / float(height * width)
        found[path.name.split(".")[0]] = frcn["x"], spat
    return found


def write_bua(folder: Path, images: Iterable[Regions]) -> Path:
    """utils/extract_utils.py: info is an object, which numpy pickles."""
    folder.mkdir()
    for image in images:
        info = {
            "image_id": image.image_id,
            "objects_id": image.classes,
            "objects_conf": image.scores,
        }
        np.savez_compressed(
            folder / image.image_id,
            x=image.features,
            bbox=image.boxes,
            num_bbox=len(image.boxes),
            image_h=image.height,
            image_w=image.width,
            info=info,  # pyright: ignore
        )
    return folder


def write_m2(path: Path, images: Iterable[Regions]) -> Path:
    with h5py.File(path, "w") as file:
        for image in images:
            number = int(image.image_id.split("_")[-1])
            file[f"{number}_features"] = image.features
            file[f"{number}_boxes"] = image.boxes
            file[f"{number}_cls_prob"] = probabilities(image)
    return path


def read_m2(path: Path, name: str) -> np.ndarray:
    """ImageDetectionsField.preprocess."""
    image_id = int(name.split("_")[-1].split(".")[0])
    with h5py.File(path, "r") as f:
        return f["%d_features" % image_id][()]  # noqa: UP031


def norm_bb(image: Regions) -> np.ndarray:
    corners = image.boxes / np.array([image.width, image.height] * 2, np.float32)
    return np.hstack([corners, corners[:, 2:] - corners[:, :2]])


def write_uniter(folder: Path, images: Iterable[Regions], *, compress: bool) -> Path:
    """convert_imgdir.py; msgpack as msgpack_numpy.patch() makes it."""
    env = lmdb.open(str(folder), map_size=1 << 28)
    names = []
    with env.begin(write=True) as txn:
        for image in images:
            dump = {"features": image.features, "norm_bb": norm_bb(image), "conf": image.scores}
            dump = {key: array.astype(np.float16) for key, array in dump.items()}
            if compress:
                writer = io.BytesIO()
                np.savez_compressed(writer, **dump, allow_pickle=True)  # saved as one more member
                value = writer.getvalue()
            else:
                value = msgpack.dumps(dump, use_bin_type=True, default=msgpack_numpy)
            names.append(f"{image.image_id}.npz")
            txn.put(names[-1].encode(), value)
        txn.put(b"__keys__", json.dumps(names).encode())
    env.close()
    return folder


def msgpack_numpy(array: np.ndarray) -> dict[bytes, Any]:
    """msgpack_numpy.encode, for an array of numbers."""
    return {
        b"nd": True,
        b"type": array.dtype.str,
        b"kind": b"",
        b"shape": array.shape,
        b"data": array.tobytes(),
    }


def read_uniter(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """DetectFeatLmdb with compress=True and all boxes."""
    env = lmdb.open(str(folder), readonly=True, create=False)
    txn = env.begin(buffers=True)
    found = {}
    for name in json.loads(bytes(txn.get(b"__keys__")).decode("utf-8")):
        dump = np.load(io.BytesIO(txn.get(name.encode())), allow_pickle=True)
        found[name] = {key: dump[key].astype(np.float32) for key in ("features", "norm_bb", "conf")}
    env.close()
    return found


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def read_tars(folder: Path) -> dict[str, dict[str, bytes]]:
    """webdataset's tar_file_expander and group_by_keys: the name up to the first dot is the key."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                folder_name, _, base = member.name.rpartition("/")
                key, _, ending = base.partition(".")
                key = f"{folder_name}/{key}" if folder_name else key
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[ending] = file.read()
    return samples


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
