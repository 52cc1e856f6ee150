"""LMDB databases with a value for each image.

mmf-lmdb: facebookresearch/mmf, tools/scripts/features/lmdb_conversion.py, feature_readers.py.
uniter-lmdb: ChenRocks/UNITER, scripts/convert_imgdir.py, data/data.py.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# What a file holds has any type; it is checked.
# pyright: reportMissingTypeStubs=false

import hashlib
import importlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from ...base.errors import StoreError, UsageError, needs_extra
from ...base.jsonio import parse_json
from ..identity import Identity
from .lmdbfile import DATA, LmdbFile, Place
from .npyfile import npz_arrays, npz_bytes
from .npyfolders import grid_layout, mmf_grid, mmf_info, with_info
from .options import Options, Sizes, needs_sizes
from .parts import Layout, Parts, PartsReader
from .pickled import array_of, bytes_of, read_numpy_pickle
from .pickling import pickle_bytes
from .records import Features
from .tsv import region_arrays, require_regions
from .vinvl import geometry_of

MAP_BYTES = 1 << 40  # of addresses, not of the disk: a database cannot grow beyond it
MAX_KEY = 511  # bytes, of LMDB as it is built
BATCH_BYTES = 64 << 20  # written together
NUMBERS = re.compile("[<|=]?(f[248]|[iu][1248])")  # as msgpack-numpy names the numbers of an array


class LmdbReader(PartsReader):
    """Reads a database whose ids are in a list under a key of its own."""

    list_key: bytes

    def __init__(
        self, name: str, sources: Sequence[Path], settings: dict[str, Any], layout: Layout | None
    ) -> None:
        if len(sources) > 1:
            raise UsageError(
                f"{name} is one database; import each into a store of its own, and merge these",
                code="E-IMPORT-SOURCE",
            )
        self._file = LmdbFile(sources[0])
        self.files = [self._file.path]
        super().__init__(name, sources[0], settings, layout)

    def places(self) -> Iterator[tuple[str, Place | None]]:
        """Yield the id of each image with the place of its value.

        At last come those that the list of keys has and the tree has not. Raises UsageError
        (E-IMPORT-LMDB) for a damaged tree without such a list.
        """
        found: set[bytes] = set()
        for key, place in self._file.places():
            found.add(key)
            if key != self.list_key:
                yield self.image_id(key), place
        missing = [key for key in self._listed() if key not in found]
        if len(found) < self._file.entries and not missing:
            raise UsageError(
                f"{self._file.path}: {len(found):,} of {self._file.entries:,} entries can be "
                f"found, pages of it are damaged; copy it again",
                code="E-IMPORT-LMDB",
            )
        for key in missing:
            yield self.image_id(key), None

    def _listed(self) -> list[bytes]:
        """Return the keys of all images, as far as the list of them can be read."""
        try:
            content = self._file.get(self.list_key)
            return [] if content is None else self.keys_in(content)
        except ValueError:
            return []

    def parts(self, image_id: str, place: Place | None) -> Parts:
        """Return the parts of an image."""
        if place is None:
            raise ValueError("its entry in the database is damaged or missing")
        return self.in_value(image_id, self._file.value(place))

    def whole(self, image_id: str, place: Place | None) -> tuple[Parts, str]:
        """Return the parts of an image, and the sha256 of its value."""
        parts = self.parts(image_id, place)
        assert place is not None
        return parts, hashlib.sha256(self._file.value(place)).hexdigest()

    def place_text(self, place: Place | None) -> str:
        """Return nothing: the id is the key."""
        return ""

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def image_id(self, key: bytes) -> str:
        """Return the id that a key stands for."""
        return key.decode(errors="backslashreplace")

    @abstractmethod
    def keys_in(self, content: memoryview) -> list[bytes]:
        """Return the keys in the list of them; ValueError if it is none."""

    @abstractmethod
    def in_value(self, image_id: str, value: memoryview) -> Parts:
        """Return the parts in a value."""


class MmfLmdbReader(LmdbReader):
    """Reads mmf's database: pickled dicts, which are `_info.npy` and features in one."""

    list_key = b"keys"

    def keys_in(self, content: memoryview) -> list[bytes]:
        """Return the keys in a pickled list."""
        listed = read_numpy_pickle(content)
        if not isinstance(listed, list):
            raise ValueError("not a list")
        return [bytes(bytes_of(key)) for key in cast(list[Any], listed)]

    def in_value(self, image_id: str, value: memoryview) -> Parts:
        """Return the parts in a pickled dict."""
        item = read_numpy_pickle(value)
        if not isinstance(item, dict) or "features" not in item:
            raise ValueError("its value is not a dict with features")
        return with_info(array_of(item["features"]), item)


class UniterReader(LmdbReader):
    """Reads UNITER's database: .npz archives, or msgpack with arrays as msgpack-numpy has them."""

    list_key = b"__keys__"

    def __init__(self, name: str, sources: Sequence[Path], sizes: Sizes) -> None:
        if not sizes:
            raise needs_sizes("the boxes of UNITER are fractions of the image")
        self._sizes = sizes
        super().__init__(name, sources, {}, None)

    def image_id(self, key: bytes) -> str:
        """Return the name of the archive without its ending."""
        return super().image_id(key).removesuffix(".npz")

    def keys_in(self, content: memoryview) -> list[bytes]:
        """Return the keys in a JSON list."""
        listed = parse_json(bytes(content))
        return [str(key).encode() for key in listed] if isinstance(listed, list) else []

    def in_value(self, image_id: str, value: memoryview) -> Parts:
        """Return the parts in a value, with boxes in pixels."""
        if bytes(value[:4]) == b"PK\x03\x04":
            archive = npz_arrays(io.BytesIO(value))
            grid, boxes, scores = archive["features"], archive["norm_bb"], archive.get("conf")
        else:
            arrays = _in_msgpack(value)
            grid, boxes, scores = arrays["features"], arrays["norm_bb"], arrays.get("conf")
        if image_id not in self._sizes:
            raise ValueError("its boxes are fractions of the image, whose size is not in --sizes")
        width, height = self._sizes[image_id]
        fractions = np.asarray(boxes).astype(np.float32)
        if fractions.ndim != 2 or fractions.shape[1] < 4:
            raise ValueError(f"norm_bb of shape {fractions.shape}")
        pixels = fractions[:, :4] * np.array([width, height, width, height], np.float32)
        return Parts(grid, pixels, None, scores, width, height)


def _in_msgpack(value: memoryview) -> dict[str, np.ndarray]:
    """Return the arrays in msgpack; msgpack-numpy itself would unpickle some."""
    try:
        content = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its value is neither .npz nor msgpack: {error}") from None
    if not isinstance(content, dict) or not {"features", "norm_bb"} <= content.keys():
        raise ValueError("its value has no features and norm_bb")
    return {
        name: _msgpack_array(content[name])
        for name in ("features", "norm_bb", "conf")
        if name in content
    }


def _msgpack_array(value: Any) -> np.ndarray:
    if not isinstance(value, dict):
        raise ValueError("an array that is none")
    array = cast(dict[Any, Any], value)
    kind, shape, data = array.get(b"type"), array.get(b"shape"), array.get(b"data")
    is_plain = array.get(b"nd") is True and array.get(b"kind", b"") in (b"", "")
    if not is_plain or not isinstance(kind, str) or not NUMBERS.fullmatch(kind):
        raise ValueError("an array of other things than numbers")
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("an array that is none")
    if not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise ValueError("an array that is none")
    return np.frombuffer(data, kind).reshape(shape)  # its ValueError: another number of bytes


def open_reader(name: str, sources: Sequence[Path], options: Options) -> LmdbReader:
    """Return the reader of a database."""
    if name == "uniter-lmdb":
        return UniterReader(name, sources, options.sizes)
    return MmfLmdbReader(name, sources, *grid_layout(options))


def open_writer(name: str, path: Path, identity: Identity, options: Options) -> "LmdbWriter":
    """Return the writer of a database.

    Raises UsageError: E-EXPORT-REGIONS where UNITER's boxes are missing, E-EXTRA-MISSING without
    the package lmdb.
    """
    with needs_extra("exchange"):
        importlib.import_module("lmdb")
    if name == "uniter-lmdb":
        require_regions(name, identity, ("boxes", "scores"))
        return UniterWriter(path)
    return MmfLmdbWriter(path, grid_layout(options)[1])


class LmdbWriter(ABC):
    """Writes a database. A transaction is in it completely or not at all, whatever happens."""

    list_key: bytes

    def __init__(self, path: Path) -> None:
        self._path = path
        self._env: Any = None
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0
        self._keys: list[bytes] = []

    def written(self) -> set[str]:
        """Return the ids whose entries are in the database."""
        if (self._path / DATA).exists():
            file = LmdbFile(self._path)
            self._keys = [key for key, _ in file.places() if key != self.list_key]
            file.close()
        return {self.image_id(key) for key in self._keys}

    def write(self, image_id: str, features: Features) -> None:
        """Write the entry of one image; ValueError where the format cannot hold it."""
        key = self.key(image_id)
        if key == self.list_key or not 0 < len(key) <= MAX_KEY:
            raise ValueError("an id that cannot be a key of this database")
        value = self.value(image_id, features)
        self._batch.append((key, value))
        self._batch_bytes += len(value)
        self._keys.append(key)
        if self._batch_bytes >= BATCH_BYTES:
            self._commit()

    def finish(self) -> None:
        """Write the list of keys, without which the published readers cannot begin."""
        self._batch.append((self.list_key, self.listing(self._keys)))
        self._commit()
        self._env.close()

    def _commit(self) -> None:
        import lmdb

        try:
            if self._env is None:
                self._path.mkdir(parents=True, exist_ok=True)
                self._env = lmdb.open(str(self._path), map_size=MAP_BYTES)
            with self._env.begin(write=True) as transaction:
                for key, value in self._batch:
                    transaction.put(key, value)
        except lmdb.Error as error:
            if self._env is not None:
                self._env.close()  # a process opens a database once
            raise StoreError(
                f"{self._path}: LMDB cannot write ({error}); it needs free space on the disk, and "
                f"{MAP_BYTES >> 40} TiB of addresses, which ulimit -v must not limit",
                code="E-EXPORT-LMDB",
            ) from None
        self._batch.clear()
        self._batch_bytes = 0

    def key(self, image_id: str) -> bytes:
        """Return the key of an image."""
        return image_id.encode()

    def image_id(self, key: bytes) -> str:
        """Return the id that a key stands for."""
        return key.decode()

    @abstractmethod
    def value(self, image_id: str, features: Features) -> bytes:
        """Return the value of an image; raises ValueError where the format cannot hold it."""

    @abstractmethod
    def listing(self, keys: list[bytes]) -> bytes:
        """Return the list of keys."""


class MmfLmdbWriter(LmdbWriter):
    """Writes mmf's pickled dicts."""

    list_key = b"keys"

    def __init__(self, path: Path, layout: Layout | None) -> None:
        super().__init__(path)
        self._layout: Layout | None = layout

    def value(self, image_id: str, features: Features) -> bytes:
        """Return a pickled dict."""
        grid = mmf_grid(features, self._layout)
        return pickle_bytes({"feature_path": image_id, "features": grid, **mmf_info(features)})

    def listing(self, keys: list[bytes]) -> bytes:
        """Return a pickled list."""
        return pickle_bytes(keys)


class UniterWriter(LmdbWriter):
    """Writes UNITER's compressed archives; boxes become float32 fractions of the image's size."""

    list_key = b"__keys__"

    def key(self, image_id: str) -> bytes:
        """Return the name of the archive."""
        return f"{image_id}.npz".encode()

    def image_id(self, key: bytes) -> str:
        """Return the name without the ending."""
        return key.decode().removesuffix(".npz")

    def value(self, image_id: str, features: Features) -> bytes:
        """Return an archive."""
        vectors, boxes = region_arrays(features)
        assert features.scores is not None
        arrays = {
            "features": vectors,
            "norm_bb": geometry_of(boxes, (features.width, features.height)),
            "conf": features.scores,
        }
        return npz_bytes(arrays, compressed=True)

    def listing(self, keys: list[bytes]) -> bytes:
        """Return a JSON list."""
        return json.dumps([key.decode() for key in keys]).encode()
