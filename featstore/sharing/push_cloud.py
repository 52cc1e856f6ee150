"""A folder in S3, Google Cloud Storage or Azure that a store is pushed to."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false
# obstore is optional, and its stores have no common type.

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ...base.errors import StoreError
from ...base.objects import object_errors, open_folder
from ...base.ranges import read_file, require_url
from ..layout import STORE_JSON
from ..metadata import MAX_STORE_JSON_BYTES
from ..store import FeatureStore
from .outgoing import Found, HostLimits, OutgoingFile

FILES_AT_A_TIME = 4
PART_BYTES, MAX_PARTS = 16 << 20, 10_000  # S3 takes no more parts
PARTS_AT_A_TIME = 4  # of a file
HASH = "sha256"  # the name of the metadata of an object that has its hash


class CloudTarget:
    """A folder in a bucket. Each object has its sha256 as metadata, for later comparisons."""

    limits = HostLimits("the service", file_bytes=MAX_PARTS * PART_BYTES)

    def __init__(self, location: str):
        """Use `CloudTarget.open`."""
        self.location = location
        self._version: dict[str, str] | None = None  # of the store.json that is there

    @classmethod
    def open(cls, url: str) -> "CloudTarget":
        """Return the folder at s3://, gs:// or az://; raises StoreError for an invalid URL."""
        require_url(url)
        return cls(url.rstrip("/"))

    def store_json(self) -> bytes | None:
        """Return the store.json that is there, if any, and remember which one it is."""
        url = f"{self.location}/{STORE_JSON}"
        try:
            with object_errors(url):
                found = self._store().head(STORE_JSON)
            self._version = {k: found[k] for k in ("e_tag", "version") if found.get(k)}
            return read_file(url, MAX_STORE_JSON_BYTES)
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            return None

    def compare(self, files: Sequence[OutgoingFile]) -> Found:
        """Return what is there; files of the right size are compared by their sha256."""
        store, there = self._store(), dict[str, Any]()
        with object_errors(self.location):
            for batch in store.list(chunk_size=1000):
                there.update((entry["path"], entry) for entry in batch)

        def is_same(file: OutgoingFile) -> bool:
            if there[file.name]["size"] != file.size:
                return False
            with object_errors(f"{self.location}/{file.name}"):
                found = store.get(file.name, options={"head": True})
            return found.attributes.get(HASH) == file.sha256

        present = [file for file in files if file.name in there]
        with ThreadPoolExecutor(4 * FILES_AT_A_TIME, "clipfeat push") as threads:
            answers = zip(present, threads.map(is_same, present), strict=True)
            same = {file.name for file, is_equal in answers if is_equal}
        names = {file.name for file in present}
        return Found(same, names - same, set(there) - names)

    def create(self) -> None:
        """Do nothing: a bucket must exist, and its folders are only names."""

    def send(self, files: Sequence[OutgoingFile], count: Callable[[int], object]) -> None:
        """Write files, a few at the same time, each in several parts at the same time."""

        def put(file: OutgoingFile) -> int:
            with object_errors(f"{self.location}/{file.name}"):
                self._put(file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_A_TIME)
            return file.size

        with ThreadPoolExecutor(FILES_AT_A_TIME, "clipfeat push") as threads:
            calls = [threads.submit(put, file) for file in files]
            try:
                for call in as_completed(calls):
                    count(call.result())
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects that are there."""
        if names:
            with object_errors(self.location):
                self._store().delete(list(names))
        if STORE_JSON in names:
            self._version = None

    def finish(self, store_json: OutgoingFile, store: FeatureStore) -> None:
        """Write store.json, unless somebody else has written one since `store_json`."""
        with object_errors(f"{self.location}/{store_json.name}"):
            from obstore import exceptions

            try:
                self._put(store_json, mode=self._version or "create")
            except exceptions.NotSupportedError:  # a service that cannot compare
                self._put(store_json)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise StoreError(
                    f"{self.location}: somebody else has written {STORE_JSON} in the meantime; see "
                    f"what it is with: clipfeat store info",
                    code="E-PUSH-RACE",
                ) from None

    def _put(self, file: OutgoingFile, **options: Any) -> None:
        content: Any = file.pieces() if file.size > PART_BYTES else file.content()
        self._store().put(file.name, content, attributes={HASH: file.sha256}, **options)

    def _store(self) -> Any:
        return open_folder(self.location)
