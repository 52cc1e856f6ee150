"""Copy a store from this machine to the Hugging Face Hub or to a cloud: resumable, store.json last.

Each file is hashed while it is sent. What is there already is compared first, so the same command
continues after a kill. Until store.json is there, no program takes the folder for a store.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

from ...base.errors import StoreError, UsageError
from ...base.objects import is_object
from ...base.ranges import shown
from ..layout import SHARD_PATH, SIGNATURES, ZARR_JSON, is_table_file
from ..metadata import StoreMetadata, parse_metadata
from ..quantise import SCALE_FILE
from ..store import FeatureStore
from .outgoing import Found, HostLimits, OutgoingFile, outgoing_files, require_limits
from .push_cloud import CloudTarget
from .push_hub import HubTarget

MESSAGE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class Target(Protocol):
    """A folder on a host that a store is pushed to."""

    location: str  # for people
    limits: HostLimits

    def store_json(self) -> bytes | None:
        """Return the store.json that is there, if any."""
        ...

    def compare(self, files: Sequence[OutgoingFile]) -> Found:
        """Return what is there, of `files` and of others."""
        ...

    def create(self) -> None:
        """Make the place of the folder, unless it exists. This is the first step that writes."""
        ...

    def send(self, files: Sequence[OutgoingFile], count: Callable[[int], object]) -> None:
        """Write files, and call `count` with the size of each that has been sent."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Remove files that are there."""
        ...

    def finish(self, store_json: OutgoingFile, store: FeatureStore) -> None:
        """Write store.json, the last file."""
        ...


class Pushed(NamedTuple):
    """A store that was pushed."""

    metadata: StoreMetadata
    location: str
    sent: int  # bytes, of this call; 0 if the store was complete already


def push(
    path: Path,
    url: str,
    *,
    private: bool = False,
    message: str | None = None,
    replace: bool = False,
) -> Pushed:
    """Copy the store at `path` to `url`, or continue a copy that was interrupted.

    `url` is hf://datasets/OWNER/NAME[/PATH], or a folder at s3://, gs:// or az://. `private` makes a
    new dataset of the Hub private, `message` is that of its commits. With `replace` another store
    is overwritten, and files with another content.

    Raises UsageError for other URLs, and for a store that exceeds the limits of the host, before
    anything is written; StoreError if the store is not complete or changes, if something else is at
    `url`, or if the host fails. What was sent stays, and the next call continues.
    """
    target = _open_target(url, private=private, message=message)
    store = FeatureStore.open(path)
    files = outgoing_files(store)
    require_limits(store, files, target.limits)
    digest = _digest_there(target)
    found = target.compare(files)
    if not replace:
        _check_other(target.location, store.digest, digest, found)
    *parts, store_json = files
    missing = [file for file in parts if file.name not in found.same]
    is_store = digest is not None
    obsolete = sorted(filter(_is_of_a_store, found.more)) if is_store or replace else []
    if not missing and not obsolete and store_json.name in found.same:
        return Pushed(store.metadata, target.location, 0)
    target.create()
    if is_store and digest != store.digest and found.other - {store_json.name}:
        target.remove([store_json.name])  # the store that is there loses files
    total, needed = sum(file.size for file in parts), sum(file.size for file in missing)
    with tqdm(
        total=total, initial=total - needed, unit="B", unit_scale=True, desc="push", disable=None
    ) as bar:
        target.send(missing, bar.update)
    target.finish(store_json, store)
    target.remove(obsolete)
    return Pushed(store.metadata, target.location, needed + store_json.size)


def _open_target(url: str, *, private: bool, message: str | None) -> Target:
    if url.startswith("hf://"):
        if message is not None and not MESSAGE.fullmatch(message):
            raise UsageError(
                "--message must be one line of at most 200 characters", code="E-PUSH-MESSAGE"
            )
        return HubTarget.open(url, private=private, message=message)
    if not is_object(url):
        raise UsageError(
            f"{shown(url)}: a store can be pushed to hf://datasets/OWNER/NAME, s3://, gs:// and az://; "
            f"for a web server, copy the folder with rsync",
            code="E-PUSH-URL",
        )
    if private or message is not None:
        raise UsageError(
            "--private and --message are for the Hub; the settings of a bucket say who may read it",
            code="E-PUSH-HUB",
        )
    return CloudTarget.open(url)


def _digest_there(target: Target) -> str | None:
    """Return the digest of the store that is there, None if there is none."""
    text = target.store_json()
    if text is None:
        return None
    try:
        return parse_metadata(text, target.location).digest
    except StoreError:
        return "(unreadable)"  # which no store has


def _check_other(location: str, digest: str, there: str | None, found: Found) -> None:
    """Raise StoreError if something would be overwritten that is not of this store."""
    remedy = "choose another URL, or overwrite it with --replace"
    if there not in (None, digest):
        raise StoreError(
            f"{location} has another store, with the digest {there}; the one to push has {digest}; "
            f"{remedy}",
            code="E-PUSH-OTHER",
        )
    if there is None and found.other:
        raise StoreError(
            f"{location} has other files where this store needs its own, such as {min(found.other)}; "
            f"{remedy}",
            code="E-PUSH-FILES",
        )


def _is_of_a_store(name: str) -> bool:
    """Return whether only a store has a file of this name; documents may belong to people."""
    patterns = (SHARD_PATH, ZARR_JSON)
    return (
        is_table_file(name)
        or name in (*SIGNATURES, SCALE_FILE)
        or any(pattern.fullmatch(name) for pattern in patterns)
    )
