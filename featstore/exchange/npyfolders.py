"""Folders with a .npy or .npz file for each image.

mmf-npy: facebookresearch/mmf, tools/scripts/features/extract_features_vmb.py.
captioning-npz: ruotianluo/ImageCaptioning.pytorch, scripts/make_bu_data.py, captioning/data/dataloader.py.
openvqa-npz: MILVLG/openvqa, openvqa/datasets/vqa/vqa_loader.py and gqa/gqa_loader.py.
bua-npz: MILVLG/bottom-up-attention.pytorch, utils/extract_utils.py.
"""

import hashlib
import io
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ...base.errors import UsageError
from ...base.files import open_plain, read_bytes
from ..identity import Identity
from .destination import FolderWriter, Numbered, file_name
from .npyfile import (
    MAX_ITEM_BYTES,
    npy_array,
    npy_bytes,
    npz_arrays,
    npz_bytes,
    number_in,
    read_header,
)
from .options import Options, chosen
from .parts import LAYOUTS, Layout, Parts, PartsReader
from .pickled import array_of, object_of, read_numpy_pickle
from .pickling import npy_object_bytes
from .records import Features

MAX_FILE_BYTES = MAX_ITEM_BYTES + (1 << 24)
VQA_LAYOUTS = ("vqa", "gqa")
VQA_LAYOUTS_MEAN = "vqa has channels x regions in x, gqa regions x channels"
GRID_LAYOUTS_MEAN = "the order of row, column and channel, if the arrays are grids"
INFO = "_info"  # ends the name of mmf's file of boxes
ATT, BOX = "_att", "_box"  # end the names of ImageCaptioning.pytorch's folders


class FolderReader(PartsReader):
    """Reads formats with a file for each image, and perhaps some beside it."""

    suffix = ".npz"

    def __init__(
        self,
        name: str,
        sources: Sequence[Path],
        settings: dict[str, Any] | None = None,
        layout: Layout | None = None,
    ) -> None:
        for folder in sources:
            if not folder.is_dir():
                raise UsageError(
                    f"{folder} is not a folder; {name} is a folder with a {self.suffix} file for each "
                    f"image",
                    code="E-IMPORT-SOURCE",
                )
        # With their names, which "." has not; links are not followed, since they rename a folder.
        self.folders = [Path(os.path.abspath(folder)) for folder in sources]  # noqa: PTH100
        self._found = [(self.image_id(p, f), p) for f in self.folders for p in self._in_folder(f)]
        self.files = [
            file for _, path in self._found for file in (path, *self.beside(path)) if file.is_file()
        ]
        super().__init__(name, sources[0], settings, layout)

    def _in_folder(self, folder: Path) -> list[Path]:
        return sorted(
            p
            for p in folder.rglob(f"*{self.suffix}")
            if self.is_image(p) and (p.is_file() or not p.exists())  # a link may lead nowhere
        )

    def is_image(self, path: Path) -> bool:
        """Return whether a file holds the features of an image."""
        return not path.name.startswith(".")

    def image_id(self, path: Path, folder: Path) -> str:
        """Return the id of an image: its file's name in the folder, up to the first dot."""
        relative = path.relative_to(folder)
        return relative.with_name(relative.name.partition(".")[0]).as_posix()

    def beside(self, path: Path) -> tuple[Path, ...]:
        """Return the files that may be there besides an image's own."""
        return ()

    def folder_of(self, path: Path) -> Path:
        """Return the source that a file is in."""
        return next(folder for folder in self.folders if path.is_relative_to(folder))

    def place_text(self, place: Path) -> str:
        """Return the path of a file from the name of its source: the same on every machine."""
        return place.relative_to(self.folder_of(place).parent).as_posix()

    def places(self) -> Iterator[tuple[str, Path]]:
        """Yield the id and the file of each image."""
        yield from self._found

    def parts(self, image_id: str, place: Path) -> Parts:
        """Return the parts of an image, of which the headers are read."""
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for path in self._present(place):
                descriptor = open_plain(path, follow=True)
                files.append(stack.enter_context(os.fdopen(descriptor, "rb")))
                if (size := os.fstat(descriptor).st_size) > MAX_FILE_BYTES:
                    raise ValueError(f"{size:,} bytes; at most {MAX_FILE_BYTES:,} are one image's")
            return self.in_files(files)

    def whole(self, image_id: str, place: Path) -> tuple[Parts, str]:
        """Return the parts of an image, in memory, and the sha256 of its files."""
        contents = [read_bytes(p, MAX_FILE_BYTES, follow=True) for p in self._present(place)]
        digest = hashlib.sha256()
        for content in contents:
            digest.update(content)
        return self.in_files([io.BytesIO(content) for content in contents]), digest.hexdigest()

    def _present(self, path: Path) -> list[Path]:
        return [path, *(file for file in self.beside(path) if file.is_file())]

    @abstractmethod
    def in_files(self, files: Sequence[BinaryIO]) -> Parts:
        """Return the parts of an image in its open file, and in those beside it that are there."""


class MmfReader(FolderReader):
    """Reads `<id>.npy`, and `<id>_info.npy`, which holds a pickled dict."""

    suffix = ".npy"

    def is_image(self, path: Path) -> bool:
        """Return whether a file is not the info of another one."""
        return super().is_image(path) and not path.stem.endswith(INFO)

    def image_id(self, path: Path, folder: Path) -> str:
        """Return the path in the folder, as mmf's own databases name an image."""
        return path.relative_to(folder).with_suffix("").as_posix()

    def beside(self, path: Path) -> tuple[Path, ...]:
        """Return the file of boxes."""
        return (path.with_name(f"{path.stem}{INFO}.npy"),)

    def in_files(self, files: Sequence[BinaryIO]) -> Parts:
        """Return the parts of an image, with the boxes of its info."""
        grid = npy_array(files[0])
        if len(files) == 1:
            return Parts(grid)
        shape, _, dtype = read_header(files[1])
        if shape != () or not dtype.hasobject:
            raise ValueError("its info is not a dict of numpy")
        return with_info(grid, object_of(read_numpy_pickle(files[1].read(MAX_FILE_BYTES))))


def with_info(grid: Any, info: Any) -> Parts:
    """Return features with what mmf's dict says of their regions."""
    if not isinstance(info, dict):
        raise ValueError("its info is not a dict")
    known = cast(dict[Any, Any], info)

    def array(key: str) -> np.ndarray | None:
        if known.get(key) is None:
            return None
        try:
            return array_of(known[key])
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    return Parts(
        grid,
        array("bbox"),
        array("objects"),
        array("cls_prob"),
        number_in(array("image_width")),
        number_in(array("image_height")),
    )


class CaptioningReader(FolderReader):
    """Reads `X_att/<id>.npz` (feat), and `X_box/<id>.npy` where there is such a folder."""

    def beside(self, path: Path) -> tuple[Path, ...]:
        """Return the file of boxes."""
        folder = self.folder_of(path)
        if not folder.name.endswith(ATT):
            return ()
        boxes = folder.with_name(f"{folder.name.removesuffix(ATT)}{BOX}")
        return (boxes / path.relative_to(folder).with_suffix(".npy"),)

    def in_files(self, files: Sequence[BinaryIO]) -> Parts:
        """Return the parts of an image; some published archives call the features z."""
        boxes = npy_array(files[1]) if len(files) > 1 else None
        return Parts(npz_arrays(files[0])["feat", "z"], boxes)


class RegionsReader(FolderReader):
    """Reads the .npz of openvqa and of bottom-up-attention.pytorch, whose `info` is not looked at."""

    def in_files(self, files: Sequence[BinaryIO]) -> Parts:
        """Return the parts of an image."""
        arrays = npz_arrays(files[0])
        width = number_in(arrays.get("image_w", "width"))
        height = number_in(arrays.get("image_h", "height"))
        return Parts(arrays["x"], arrays.get("bbox"), width=width, height=height)


def open_reader(name: str, sources: Sequence[Path], options: Options) -> FolderReader:
    """Return the reader of a folder; raises UsageError where the user must say more of it."""
    if name == "captioning-npz":
        return CaptioningReader(name, sources, layout="hwc")
    if name == "bua-npz":
        return RegionsReader(name, sources)
    if name == "openvqa-npz":
        kind = chosen("--layout", options.layout, VQA_LAYOUTS, VQA_LAYOUTS_MEAN)
        return RegionsReader(name, sources, {"layout": kind}, "cn" if kind == "vqa" else None)
    return MmfReader(name, sources, *grid_layout(options))


def open_writer(name: str, path: Path, identity: Identity, options: Options) -> FolderWriter:
    """Return the writer of a folder."""
    if name == "captioning-npz":
        return FolderWriter(path, lambda stem, f: _captioning_files(path.name, stem, f), _undotted)
    if name == "bua-npz":
        return FolderWriter(path, _bua_files, _undotted)
    if name == "openvqa-npz":
        kind = chosen("--layout", options.layout, VQA_LAYOUTS, VQA_LAYOUTS_MEAN)
        if kind == "gqa":
            return FolderWriter(path, _gqa_files, _undotted)
        numbers = Numbered()

        def vqa_name(image_id: str) -> str:
            numbers(image_id)  # by which openvqa finds the file
            return _undotted(image_id)

        return FolderWriter(path, _vqa_files, vqa_name)
    _, layout = grid_layout(options)
    return FolderWriter(path, lambda stem, f: _mmf_files(stem, f, layout), _mmf_name)


def grid_layout(options: Options) -> tuple[dict[str, Any], Layout | None]:
    """Return what the user says of the axes of grids, for a store's identity and for a reader."""
    if options.layout is None:
        return {}, None
    layout = chosen("--layout", options.layout, LAYOUTS, GRID_LAYOUTS_MEAN)
    return {"layout": layout}, cast(Layout, layout)


def mmf_grid(features: Features, layout: Layout | None) -> np.ndarray:
    """Return features as mmf reads them: regions x channels, HWC, or CHW with a batch axis of 1."""
    grid = features.grid
    if grid.shape[1] == 1 and layout is None:
        return grid[:, 0]
    return np.ascontiguousarray(np.moveaxis(grid, -1, 0)[None]) if layout == "chw" else grid


def mmf_info(features: Features) -> dict[str, Any]:
    """Return mmf's dict of regions; its probabilities of classes are a column of scores."""
    info: dict[str, Any] = {
        "image_width": features.width or None,
        "image_height": features.height or None,
    }
    if features.boxes is not None:
        info |= {"bbox": features.boxes, "num_boxes": len(features.boxes)}
    if features.classes is not None:
        info["objects"] = features.classes.astype(np.int64)
    if features.scores is not None:
        info["cls_prob"] = features.scores[:, None]
    return info


def _mmf_files(stem: str, features: Features, layout: Layout | None) -> Iterator[tuple[str, bytes]]:
    """Yield the features last: with them, the image counts as complete for mmf."""
    yield f"{stem}{INFO}.npy", npy_object_bytes(mmf_info(features))
    yield f"{stem}.npy", npy_bytes(mmf_grid(features, layout))


def _mmf_name(image_id: str) -> str:
    if image_id.endswith(INFO) or ".npy" in image_id:
        raise ValueError("an id with _info or .npy, which mmf cuts off")
    return file_name(image_id)


def _undotted(image_id: str) -> str:
    if "." in image_id:
        raise ValueError("an id with a dot, where readers of this format cut it off")
    return file_name(image_id)


def _captioning_files(name: str, stem: str, features: Features) -> Iterator[tuple[str, bytes]]:
    if features.boxes is not None:
        yield f"{name}{BOX}/{stem}.npy", npy_bytes(features.boxes)
    grid = features.grid
    grid = grid[:, 0] if grid.shape[1] == 1 else grid
    yield f"{name}{ATT}/{stem}.npz", npz_bytes({"feat": grid})


def flat(features: Features) -> np.ndarray:
    """Return the cells of a grid, or the regions, row by row (cell, channel)."""
    return features.grid.reshape(-1, features.grid.shape[-1])


def _bua_files(stem: str, features: Features) -> Iterator[tuple[str, bytes]]:
    yield f"{stem}.npz", _npz(flat(features), features, "image_w", "image_h")


def _vqa_files(stem: str, features: Features) -> Iterator[tuple[str, bytes]]:
    x = np.ascontiguousarray(flat(features).T)
    yield f"{stem}.npz", _npz(x, features, "image_w", "image_h")


def _gqa_files(stem: str, features: Features) -> Iterator[tuple[str, bytes]]:
    yield f"{stem}.npz", _npz(flat(features), features, "width", "height")


def _npz(x: np.ndarray, features: Features, width: str, height: str) -> bytes:
    arrays = {"x": x, width: np.array(features.width), height: np.array(features.height)}
    if features.boxes is not None:
        arrays |= {"bbox": features.boxes, "num_bbox": np.array(len(features.boxes))}
    return npz_bytes(arrays)
