"""The formats of other programs, by name: which module reads and writes each."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from ...base.errors import UsageError
from ..identity import Identity
from .options import Options
from .records import FeatureReader, FeatureWriter


class Format(NamedTuple):
    """Where the code of a format is, and which options of an import it takes besides --sizes."""

    module: str  # of this folder
    options: tuple[str, ...] = ()  # of "layout", "channels"
    export: bool = True


class FormatModule(Protocol):
    """What a module of a format has; `name` is the format's, of which it may have several."""

    def open_reader(self, name: str, sources: Sequence[Path], options: Options) -> FeatureReader:
        """Return a reader of files or folders that exist."""
        ...

    def open_writer(
        self, name: str, path: Path, identity: Identity, options: Options
    ) -> FeatureWriter:
        """Return a writer of a store of this identity; raises UsageError if it cannot be held."""
        ...


FORMATS: dict[str, Format] = {
    "bottom-up-tsv": Format("tsv"),
    "lxmert-tsv": Format("tsv"),
    "vinvl-tsv": Format("vinvl", ("layout",)),
    "vln-tsv": Format("views", ("channels",)),
    "mmf-npy": Format("npyfolders", ("layout",)),
    "mmf-lmdb": Format("lmdbs", ("layout",)),
    "grid-feats": Format("gridfeats"),
    "captioning-npz": Format("npyfolders"),
    "openvqa-npz": Format("npyfolders", ("layout",)),
    "bua-npz": Format("npyfolders"),
    "m2-hdf5": Format("m2"),
    "uniter-lmdb": Format("lmdbs"),
    "clip-retrieval": Format("clip_retrieval", export=False),
    "webdataset": Format("webdataset", ("layout",)),
}


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise UsageError(
            f"no format is called {name!r:.80}; choose one of {', '.join(FORMATS)}",
            code="E-IMPORT-FORMAT",
        )
    return FORMATS[name]


def _module(name: str, options: Options) -> FormatModule:
    """Return the module of a format, imported now: some need packages of an extra."""
    taken = _known(name).options
    for option in ("layout", "channels"):
        if getattr(options, option) is not None and option not in taken:
            raise UsageError(
                f"--{option} has no meaning for {name}; leave it out", code="E-IMPORT-OPTION"
            )
    return cast(FormatModule, import_module(f".{FORMATS[name].module}", __package__))


def open_reader(
    name: str, sources: Sequence[str | Path], options: Options | None = None
) -> FeatureReader:
    """Return a reader of feature files in the format `name`; close it in the end.

    Raises UsageError for a source that does not exist (E-IMPORT-SOURCE), for one of another format,
    and if something must be known that the files do not say (E-IMPORT-LAYOUT, E-IMPORT-CHANNELS,
    E-IMPORT-SIZES).
    """
    options = options or Options()
    module, paths = _module(name, options), [Path(source) for source in sources]
    if not paths:
        raise UsageError("no source is given", code="E-IMPORT-SOURCE")
    for number, path in enumerate(paths):
        if not path.exists():
            raise UsageError(
                f"{path} does not exist; name a file or a folder", code="E-IMPORT-SOURCE"
            )
        if not (path.is_file() or path.is_dir()):
            raise UsageError(
                f"{path} is a pipe or a device; a regular file or a folder is needed",
                code="E-IMPORT-SOURCE",
            )
        if path.resolve() in (other.resolve() for other in paths[:number]):
            raise UsageError(f"{path} is given twice; give it once", code="E-IMPORT-SOURCE")
    return module.open_reader(name, paths, options)


def open_writer(
    name: str, path: str | Path, identity: Identity, options: Options | None = None
) -> FeatureWriter:
    """Return a writer of features of a store with this identity in the format `name`.

    Raises UsageError for a format that cannot hold what the store has (E-EXPORT-...).
    """
    options = options or Options()
    module = _module(name, options)
    if not FORMATS[name].export:
        raise UsageError(
            f"{name} can be imported, but not exported; choose another format",
            code="E-EXPORT-FORMAT",
        )
    return module.open_writer(name, Path(path), identity, options)
