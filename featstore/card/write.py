"""Write the card of a store: into the store, or into a folder beside it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...base.errors import StoreUsageError, UsageError
from ...base.files import read_bytes, require_folder, sha256_file, write_atomically
from ...base.text import is_url
from ..layout import (
    CROISSANT,
    DOCUMENTS,
    STORE_JSON,
    check_folder,
    check_plain,
    require_outside_stores,
)
from ..store import FeatureStore
from ..writing.describe import write_documents
from .croissant import IDENTIFIER, croissant
from .facts import Facts, gather
from .page import GENERATOR, page
from .readme import MARK, readme

README, LICENCE, PAGE = "README.md", "LICENSE", "card.html"
MOST_BYTES = 1 << 24  # of a file of a card
MARKS = {README: MARK, PAGE: GENERATOR, CROISSANT: IDENTIFIER}  # by which they are recognised


class Card(NamedTuple):
    """A card that was written."""

    facts: Facts
    files: tuple[Path, ...]  # README.md, card.html, croissant.json


def write_card(path: str | Path, out: Path | None = None, *, break_lock: bool = False) -> Card:
    """Write the card of a store at a path or a URL.

    Without `out` it becomes documents of the store: README.md, documents/card.html and
    croissant.json; the digest stays the same, and the same store gets the same card again. A store at
    a URL needs `out`. Raises UsageError for one without it (E-CARD-OUT), StoreUsageError for a
    file of the same name that is not part of a card (E-CARD-FILE), StoreError as `FeatureStore.open`
    and `describe` do.
    """
    store = FeatureStore.open(path)
    if out is None:
        return _write_into(store, break_lock=break_lock)
    files = files_in(out)
    facts = gather(store)
    out.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256(store.files.store_json()).hexdigest()
    write_atomically(files[README], _readme(facts, PAGE))
    write_atomically(files[PAGE], page(facts))
    write_atomically(files[CROISSANT], croissant(facts, sha256))
    return Card(facts, tuple(files.values()))


def _write_into(store: FeatureStore, *, break_lock: bool) -> Card:
    if is_url(store.location):
        raise UsageError(
            f"{store.location}: a store at a URL is only read; name a folder for its card with --out",
            code="E-CARD-OUT",
        )
    path, name = store.path, f"{DOCUMENTS}/{PAGE}"
    files = files_in_store(path)
    facts = gather(store)
    documents = {README: _readme(facts, name), name: page(facts)}
    write_documents(path, documents, break_lock=break_lock)
    # It has the sha256 of store.json, which has those of the others.
    write_atomically(files[CROISSANT], croissant(facts, sha256_file(path / STORE_JSON)))
    return Card(facts, tuple(files.values()))


def files_in(out: Path) -> dict[str, Path]:
    """Return the files of a card in a folder, by name.

    Raises UsageError if they cannot be written there, StoreUsageError as `write_card` does.
    """
    require_folder(out, "--out")
    require_outside_stores(out / README)
    files = {name: out / name for name in (README, PAGE, CROISSANT)}
    _check_ours(files)
    return files


def files_in_store(path: Path) -> dict[str, Path]:
    """Return the files of a card in a store that is there or will be, by name.

    Raises CorruptStoreError for a link in their place, StoreUsageError as `write_card` does.
    """
    files = {
        README: path / README,
        PAGE: path / DOCUMENTS / PAGE,
        CROISSANT: path / CROISSANT,
    }
    check_folder(path / DOCUMENTS)
    check_plain(files.values())
    _check_ours(files)
    return files


def _readme(facts: Facts, page_name: str) -> bytes:
    has_licence = LICENCE in facts.summary.metadata.documents
    text = readme(facts, licence_file=LICENCE if has_licence else None, page=page_name)
    return text.encode(errors="replace")


def _check_ours(files: Mapping[str, Path]) -> None:
    """Raise StoreUsageError (E-CARD-FILE) for a file that is there and not part of a card."""
    for name, path in files.items():
        if os.path.lexists(path) and not _has(path, MARKS[name]):
            raise StoreUsageError(
                f"{path} was not written by clipfeat store card, so it is kept; move it away, or write "
                f"the card into another folder with --out",
                code="E-CARD-FILE",
            )


def _has(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in read_bytes(path, MOST_BYTES)
    except OSError:
        return False
