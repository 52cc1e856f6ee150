"""What is wrong with a store: `clipfeat store verify`, in three depths."""

from collections.abc import Iterator
from pathlib import Path

from ...base.errors import CorruptStoreError, StoreError, reason_of
from ...base.files import is_plain, oddity, read_bytes, sha256_file
from ...base.text import is_url
from ..layout import CROISSANT, JOURNAL, ODD_REMEDY, SIGNATURES, STORE_JSON, TABLES, has_content
from ..metadata import MAX_STORE_JSON_BYTES, is_written_canonically
from ..quantise import SCALE_FILE
from ..shards import ShardRow, check_files, check_shards, shard_size_problem
from ..store import FeatureStore
from ..tables import table_size_problem
from ..writing.describe import document_names
from ..writing.journal import Journal
from .contents import (
    COPY,
    DESCRIBE,
    REDO,
    REPAIR,
    Depth,
    Problem,
    check_index,
    croissant_problem,
    error_problem,
    ids_by_shard,
    record_problem,
    rows_by_shard,
)


def verify(path: str | Path, depth: Depth = Depth.FULL) -> list[Problem]:
    """Return what is wrong with the store at `path`; nothing, if it is the one that was written.

    Checks that every file exists at its size, and that no other files do (quick). Hashes every file
    (sha256), compares the Zarr metadata with what the identity implies and the lookup with the
    index, and computes the digest again (full). Decodes every record (deep). Raises StoreError if
    there is no store at `path`, or one of another format version.

    Of a store behind a URL, files that do not belong are not found: nothing lists them.
    """
    depth = Depth(depth)
    if isinstance(path, str) and is_url(path):
        from .remote import verify_remote

        return verify_remote(path, depth)
    path = Path(path)
    try:
        store = FeatureStore.open(path)
        shards = store.shards
    except CorruptStoreError as error:
        return [error_problem(error, str(path.absolute()))]
    problems = [*_check_other_files(store), *_check_croissant(store)]
    if depth == Depth.QUICK:
        problems += _check_presence(store)
        sizes = ((shard.path, shard_size_problem(path, shard)) for shard in shards)
        return problems + [_shard_problem(name, problem) for name, problem in sizes if problem]
    index = store.table_path("index").name
    problems += _check_tables(store)
    problems += _check_documents(store)
    problems += _check_zarr_metadata(store)
    broken = {
        shard.path: problem for shard, problem in check_files(path, shards, "verify") if problem
    }
    if all(problem.path != index for problem in problems):
        problems += check_index(store)
    ids: dict[str, tuple[str, ...]] = {}
    if all(problem.path != index for problem in problems):
        if depth == Depth.DEEP:
            broken.update(check_records(store, skip=set(broken)))
        ids = ids_by_shard(store, set(broken))
    return problems + [
        _shard_problem(name, problem, ids.get(name, ())) for name, problem in broken.items()
    ]


def _shard_problem(name: str, problem: str, ids: tuple[str, ...] = ()) -> Problem:
    return Problem(name, problem, ids, ODD_REMEDY.get(problem, REDO))


def _file_problems(path: Path, name: str, remedy: str) -> Iterator[Problem]:
    """Yield a problem if the file of this name is missing, or is not a plain file."""
    odd = oddity(path)
    if odd:
        yield Problem(name, odd, (), ODD_REMEDY[odd])
    elif not is_plain(path):
        yield Problem(name, "the file is missing", (), remedy)


def _check_other_files(store: FeatureStore) -> Iterator[Problem]:
    """Yield the files that neither the packing list nor the format mentions."""
    journal = Journal(store.path)
    if journal.folder.is_dir() or journal.folder.is_symlink():
        yield from _check_journal(store, journal)
    known = {STORE_JSON, *store.zarr_metadata()}
    known.update(store.table_path(table).name for table in TABLES)
    known.update(shard.path for shard in store.shards)
    known.update(document_names(store.path))
    known.update(SIGNATURES)
    if store.scale is not None:
        known.add(SCALE_FILE)
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        folder, _, below = name.partition("/")
        is_journals = folder == JOURNAL and (journal.owns(below) if below else path.is_symlink())
        if is_file and name not in known and not is_journals:
            yield Problem(name, "does not belong to the store", (), "delete it")


def _check_journal(store: FeatureStore, journal: Journal) -> Iterator[Problem]:
    if journal.folder.is_symlink():
        yield Problem(JOURNAL, "is a symbolic link", (), "remove it: a store contains no links")
        return
    names = [path.name for path in journal.folder.iterdir()]
    if names and not any(map(journal.owns, names)):
        return  # the files of a person, each of which is a problem of its own
    try:
        is_update = journal.updates(store.digest)
    except StoreError:
        is_update = False  # without a readable plan no run can continue it
    problem = "a run that was killed after it had finished the store has left a journal"
    if is_update:
        problem = "an extraction that adds to the store was interrupted, or is running"
    remedy = "run the clipfeat extract command again to finish it, or: clipfeat store repair"
    yield Problem(JOURNAL, problem, (), remedy)


def _check_presence(store: FeatureStore) -> Iterator[Problem]:
    """Yield the tables and zarr.json files that are missing."""
    for name in [*(store.table_path(table).name for table in TABLES), *store.zarr_metadata()]:
        yield from _file_problems(store.path / name, name, REPAIR if "/" in name else COPY)


def _check_tables(store: FeatureStore) -> Iterator[Problem]:
    """Hash the tables, and compare the bytes of store.json with those of its content."""
    if not is_written_canonically(store.path):
        yield Problem(STORE_JSON, "is not the canonical form of its content", (), COPY)
    for table in TABLES:
        path = store.table_path(table)
        remedy = REPAIR if table == "lookup" else COPY
        problems = list(_file_problems(path, path.name, remedy))
        if not problems and table == "index":
            too_large = table_size_problem(path, store.metadata.id_count)
            problems = [Problem(path.name, too_large, (), COPY)] if too_large else []
        yield from problems
        if not problems and sha256_file(path) != store.metadata.tables[table]:
            yield Problem(path.name, "sha256 is not the one in store.json", (), remedy)


def _check_documents(store: FeatureStore) -> Iterator[Problem]:
    """Hash the documents that store.json lists; others may lie there too."""
    for name, sha256 in store.metadata.documents.items():
        path = store.path / name
        problems = list(_file_problems(path, name, DESCRIBE))
        yield from problems
        if not problems and sha256_file(path) != sha256:
            yield Problem(name, "sha256 is not the one in store.json", (), DESCRIBE)


def _check_croissant(store: FeatureStore) -> Iterator[Problem]:
    """Compare the sha256 of store.json in croissant.json, which store.json cannot list, with the file."""
    path = store.path / CROISSANT
    if not is_plain(path) or CROISSANT in store.metadata.documents:
        return
    try:
        problem = croissant_problem(
            read_bytes(path, MAX_STORE_JSON_BYTES), sha256_file(store.path / STORE_JSON)
        )
    except OSError as error:
        problem = reason_of(error)
    if problem:
        yield Problem(CROISSANT, problem, (), "type clipfeat store card, which writes it again")


def _check_zarr_metadata(store: FeatureStore) -> Iterator[Problem]:
    """Compare each zarr.json with the one that the metadata of the store implies."""
    for name, content in store.zarr_metadata().items():
        odd = oddity(store.path / name)
        if odd:
            yield Problem(name, odd, (), ODD_REMEDY[odd])
        elif not has_content(store.path / name, content):
            yield Problem(name, "is not what store.json implies", (), REPAIR)


def check_records(store: FeatureStore, skip: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for each shard with a record that is not as the index says.

    Every record is decoded, its checksum verified and its numbers checked; each thread holds one.
    The shards of `skip` are omitted.
    """
    rows = rows_by_shard(store)

    def find_problem(shard: ShardRow) -> str | None:
        path = f"{store.path}/{shard.path}"
        return record_problem(store, path, shard, rows[shard.shape, shard.first_row])

    shards = [shard for shard in store.shards if shard.path not in skip]
    for shard, problem in check_shards(shards, find_problem, "decode"):
        if problem:
            yield shard.path, problem
