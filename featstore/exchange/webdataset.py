"""Tar files of webdataset: a sample is the files that share a name up to the first dot.

Features are the sample's .npy, or the array of its .npz. Those that are written here have, where a
store has them, .boxes.npy, .classes.npy, .scores.npy, and the size of the image in .json.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# What a file holds has any type; it is checked.

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from ...base import tars
from ...base.files import naming
from ...base.jsonio import parse_json
from ...base.tars import Member
from ..identity import REGIONS, Identity
from .destination import give_name
from .npyfile import MAX_ITEM_BYTES, Npz, npy_array, npy_bytes, npz_arrays
from .npyfolders import grid_layout, mmf_grid
from .options import Options
from .parts import Layout, Parts, PartsReader
from .records import Features

SAMPLE = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]*)", re.DOTALL)  # key and ending
ARRAYS = ("features", "feat", "x")  # names of the features in a .npz
SHARD_SAMPLES = 1000
SHARD = re.compile(r"(\d{6,})\.tar")
PART = ".part"  # ends the name of a tar that is being written
MAX_JSON = 1 << 20


class Sample(NamedTuple):
    """The files of one sample in a tar, by their endings."""

    tar: Path
    members: dict[str, Member]


class WebdatasetReader(PartsReader):
    """Reads tar files, or a folder of them in the order of their names."""

    def __init__(
        self, name: str, sources: Sequence[Path], settings: dict[str, Any], layout: Layout | None
    ) -> None:
        self.files = [
            tar
            for source in sources
            for tar in (sorted(source.glob("*.tar*")) if source.is_dir() else [source])
        ]
        super().__init__(name, sources[0], settings, layout)

    def places(self) -> Iterator[tuple[str, Sample]]:
        """Yield the key of each sample with its files; a tar that is damaged is one such item."""
        for tar in self.files:
            try:
                members = tars.members(str(tar))
            except OSError:
                yield tar.name, Sample(tar, {})
                continue
            samples: dict[str, dict[str, Member]] = {}
            for name, member in members.items():
                if match := SAMPLE.fullmatch(name):
                    samples.setdefault(match[1], {})[match[2].lower()] = member
            for key, files in samples.items():
                yield key, Sample(tar, files)

    def parts(self, image_id: str, place: Sample) -> Parts:
        """Return the parts of a sample."""
        return self._read(place)[0]

    def whole(self, image_id: str, place: Sample) -> tuple[Parts, str]:
        """Return the parts of a sample, and the sha256 of its files that are used."""
        return self._read(place)

    def _read(self, sample: Sample) -> tuple[Parts, str]:
        if not sample.members:
            tars.members(str(sample.tar))  # its error says what is wrong
            raise ValueError("a tar without samples")
        digest = hashlib.sha256()
        with tars.open_archive(str(sample.tar)) as read:

            def content(ending: str, limit: int = MAX_ITEM_BYTES) -> io.BytesIO:
                member = sample.members[ending]
                if member.size > limit:
                    raise ValueError(
                        f".{ending} has {member.size:,} bytes; at most {limit:,} are read"
                    )
                found = read(member.size, member.offset)
                digest.update(found)
                return io.BytesIO(found)

            grid = _grid(sample.members, content)
            beside = {
                name: npy_array(content(f"{name}.npy"))
                for name in REGIONS
                if f"{name}.npy" in sample.members
            }
            size = _size(content("json", MAX_JSON)) if "json" in sample.members else (0, 0)
        return Parts(grid, **beside, width=size[0], height=size[1]), digest.hexdigest()

    def place_text(self, place: Sample) -> str:
        """Return the name of the tar."""
        return place.tar.name


def _grid(members: dict[str, Member], content: Any) -> Any:
    """Return the array of features of a sample."""
    others = {f"{name}.npy" for name in REGIONS}
    endings = [e for e in members if e.rpartition(".")[2] in ("npy", "npz") and e not in others]
    chosen = [e for e in endings if e in ("npy", "npz")] or endings
    if len(chosen) != 1:
        found = f"several ({', '.join(sorted(chosen)[:3])})" if chosen else "none"
        raise ValueError(f"a sample has one file of features, .npy or .npz; here there are {found}")
    file = content(chosen[0])
    if chosen[0].endswith("npy"):
        return npy_array(file)
    archive: Npz = npz_arrays(file)
    names = ARRAYS if len(archive.names) > 1 else tuple(archive.names)
    if not names:
        raise ValueError("its .npz has no array")
    return archive[names]


def _size(file: io.BytesIO) -> tuple[int, int]:
    """Return the width and height in a JSON object, 0 where it has none."""
    found = parse_json(file.read())
    if not isinstance(found, dict):
        return 0, 0
    values = [cast(dict[str, Any], found).get(name) for name in ("width", "height")]
    sides = [n if type(n) is int and 0 < n < 1 << 31 else 0 for n in values]
    return sides[0], sides[1]


class WebdatasetWriter:
    """Writes a folder of tars with SHARD_SAMPLES samples each; a tar has its name when it is whole."""

    def __init__(self, folder: Path, layout: Layout | None) -> None:
        self._folder = folder
        self._layout: Layout | None = layout
        self._tar: tarfile.TarFile | None = None
        self._next = self._samples = 0

    def written(self) -> set[str]:
        """Return the keys in the tars that are whole."""
        keys: set[str] = set()
        for path in sorted(self._folder.glob("*.tar")):
            if not (shard := SHARD.fullmatch(path.name)):
                continue
            self._next = max(self._next, int(shard[1]) + 1)
            for name in tars.members(str(path)):
                if match := SAMPLE.fullmatch(name):
                    keys.add(match[1])
        return keys

    def write(self, image_id: str, features: Features) -> None:
        """Write the files of one sample; ValueError where its key would be another one."""
        match = SAMPLE.fullmatch(f"{image_id}.npy")
        if match is None or match[1] != image_id or image_id.startswith("/") or "\0" in image_id:
            raise ValueError("an id with a dot, or that cannot be the name of a file")
        arrays = {"npy": mmf_grid(features, self._layout)}
        for name in REGIONS:
            if (values := getattr(features, name)) is not None:
                arrays[f"{name}.npy"] = values
        for ending, array in arrays.items():
            self._add(f"{image_id}.{ending}", npy_bytes(array))
        if features.width and features.height:
            size = {"width": features.width, "height": features.height}
            self._add(f"{image_id}.json", json.dumps(size).encode())
        self._samples += 1
        if self._samples == SHARD_SAMPLES:
            self._close()

    def finish(self) -> None:
        """Complete the last tar."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._close()

    def _add(self, name: str, content: bytes) -> None:
        if self._tar is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tar = tarfile.open(self._part(), "w")  # noqa: SIM115
        header = tarfile.TarInfo(name)
        header.size = len(content)
        with naming(self._part()):
            self._tar.addfile(header, io.BytesIO(content))

    def _part(self) -> Path:
        return self._folder / f"{self._next:06}.tar{PART}"

    def _close(self) -> None:
        if self._tar is None:
            return
        with naming(self._part()):
            self._tar.close()
            give_name(self._part(), self._part().with_suffix(""))
        self._tar, self._samples, self._next = None, 0, self._next + 1


def open_reader(name: str, sources: Sequence[Path], options: Options) -> WebdatasetReader:
    """Return the reader of tars."""
    return WebdatasetReader(name, sources, *grid_layout(options))


def open_writer(name: str, path: Path, identity: Identity, options: Options) -> WebdatasetWriter:
    """Return the writer of a folder of tars."""
    return WebdatasetWriter(path, grid_layout(options)[1])
