"""Change what store.json says beside the features: texts for people, documents, a measured loss."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from ...base.errors import StoreError
from ...base.files import is_plain, sha256_file, write_atomically
from ...base.jsonio import as_struct
from ...base.text import size_text
from ..layout import (
    CROISSANT,
    DOCUMENT,
    DOCUMENTS,
    MAX_DOCUMENT_BYTES,
    SIGNATURES,
    STORE_JSON,
    check_folder,
    check_plain,
)
from ..metadata import About, Loss, StoreMetadata, read_metadata, write_metadata
from ..store import FeatureStore
from .journal import Journal
from .lock import StoreLock

LOSS_TABLE = f"{DOCUMENTS}/loss.csv"

logger = logging.getLogger(__name__)


def describe(
    path: Path, about: Mapping[str, str | None], *, break_lock: bool = False
) -> StoreMetadata:
    """Set fields of `About`, None to remove one, and list the store's documents with their hashes.

    croissant.json is not listed, because it has the sha256 of store.json itself. The digest stays
    the same. Raises StoreError if there is no store, if it is being written, and
    for a field, a text or a document that the format does not allow.
    """

    before: list[StoreMetadata] = []

    def change(metadata: StoreMetadata) -> StoreMetadata:
        before.append(metadata)
        try:
            fields = {**msgspec.to_builtins(metadata.about), **about}
            changed = as_struct(fields, About)
        except ValueError as error:
            raise StoreError(str(error), code="E-STORE-ABOUT") from None
        names = (name for name in document_names(path) if name != CROISSANT)
        hashes = {name: _document_sha256(path / name) for name in names}
        return msgspec.structs.replace(metadata, about=changed, documents=hashes)

    described = _replace(path, change, break_lock=break_lock)
    if described not in before and is_plain(path / CROISSANT):
        logger.warning(
            f"{path}: the card says what {STORE_JSON} said before; write it again: clipfeat store card"
        )
    return described


def _document_sha256(path: Path) -> str:
    """Return the sha256 of a document; StoreError for one too large to be copied with the store."""
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise StoreError(
            f"{path}: a document has at most {size_text(MAX_DOCUMENT_BYTES)}; move it out of the store",
            code="E-STORE-DOCUMENT",
        )
    return sha256_file(path)


def set_loss(path: Path, loss: Loss, table: bytes) -> StoreMetadata:
    """Record how much the features of a store differ from those that it is derived from.

    `table` becomes the document LOSS_TABLE, with the numbers of each channel.
    """
    return write_documents(path, {LOSS_TABLE: table}, loss=loss)


def write_documents(
    path: Path,
    contents: Mapping[str, bytes],
    *,
    loss: Loss | None = None,
    break_lock: bool = False,
) -> StoreMetadata:
    """Write documents and list them with their hashes; the digest stays the same.

    With `loss`, it is recorded in the same step. Raises StoreError as `describe` does.
    """

    def change(metadata: StoreMetadata) -> StoreMetadata:
        check_folder(path / DOCUMENTS)
        check_plain(path / name for name in contents)
        documents = dict(metadata.documents)
        for name, content in contents.items():
            (path / name).parent.mkdir(exist_ok=True)
            write_atomically(path / name, content)
            documents[name] = hashlib.sha256(content).hexdigest()
        documents.pop(CROISSANT, None)  # it has the sha256 of what is written here
        documents = dict(sorted(documents.items()))
        return msgspec.structs.replace(metadata, loss=loss or metadata.loss, documents=documents)

    return _replace(path, change, break_lock=break_lock)


def document_names(path: Path) -> list[str]:
    """Return the documents that a store has, as its metadata lists them, sorted."""
    files: Iterable[Path] = [*path.iterdir(), *(path / DOCUMENTS).glob("*")]
    names = (file.relative_to(path).as_posix() for file in files if is_plain(file))
    return sorted(name for name in names if DOCUMENT.fullmatch(name))


def _replace(
    path: Path,
    change: Callable[[StoreMetadata], StoreMetadata],
    *,
    break_lock: bool = False,
) -> StoreMetadata:
    """Write store.json again, as `change` makes it, while no other process writes the store."""
    if not (path / STORE_JSON).is_file():
        FeatureStore.open(path)  # raises an error that says what is there instead
    journal = Journal(path)
    has_update = journal.folder.is_dir()  # interrupted, perhaps
    journal.create()
    with StoreLock(path, break_lock=break_lock):
        try:
            before = read_metadata(path)
            metadata = change(before)
            write_metadata(path, metadata)
            signatures = [name for name in SIGNATURES if os.path.lexists(path / name)]
            if metadata != before and signatures:
                logger.warning(
                    f"{path}: {STORE_JSON} has changed, so its signature "
                    f"({', '.join(signatures)}) is no longer valid; sign it again: "
                    f"clipfeat store sign"
                )
        finally:
            if not has_update:
                journal.remove()
    return metadata
