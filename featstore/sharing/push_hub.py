"""A dataset repository of the Hugging Face Hub that a store is pushed to, through its own library.

Files are committed in parts, so that a push that is killed continues after the last part; what was
uploaded and not committed, the Hub finds again by its hash.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ...base.credentials import hub_endpoint, login_remedy
from ...base.errors import StoreError, StoreUsageError, UsageError, needs_extra
from ...base.ranges import read_file, shown
from ...base.remote import RemoteFolder, parse_hub_url
from ..card.facts import gather
from ..card.readme import readme
from ..layout import STORE_JSON
from ..metadata import MAX_STORE_JSON_BYTES
from ..store import FeatureStore
from .outgoing import Found, HostLimits, OutgoingFile

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

# What the Hub recommends: https://huggingface.co/docs/hub/storage-limits
LIMITS = HostLimits("the Hub", files=100_000, files_per_folder=10_000, file_bytes=20 * 10**9)
DATASET, README, LICENCE = "dataset", "README.md", "LICENSE"
UPLOAD_FILES, UPLOAD_BYTES = 64, 256 << 20  # uploaded at a time
COMMIT_FILES, COMMIT_BYTES = 256, 8 << 30  # the Hub allows some 100 commits an hour
MESSAGE = "Push a feature store"


class HubTarget:
    """A folder in a dataset repository, at its branch main."""

    limits = LIMITS

    def __init__(self, repository: str, path: str, *, private: bool, message: str | None):
        """Use `HubTarget.open`. `path` is empty or begins with a slash."""
        with needs_extra("hub"):
            import huggingface_hub
            import huggingface_hub.errors
            import huggingface_hub.hf_api
            import huggingface_hub.utils
        huggingface_hub.utils.disable_progress_bars()  # there is one of ours
        self.location = f"hf://datasets/{repository}{path}"
        self._hub = huggingface_hub
        self._api = huggingface_hub.HfApi(endpoint=hub_endpoint(), library_name="clipfeat")
        self._repository, self._path = repository, path
        self._prefix = f"{path[1:]}/" if path else ""  # of the names of files in the repository
        self._private = private
        self._message = message or MESSAGE
        self._commit: str | None = None  # the latest one; None: there is no repository

    @classmethod
    def open(cls, url: str, *, private: bool, message: str | None) -> "HubTarget":
        """Return the folder at hf://datasets/OWNER/NAME[/PATH].

        Raises StoreUsageError for another URL (E-REMOTE-URL), UsageError without huggingface_hub.
        """
        repository, revision, path = parse_hub_url(url)
        if revision is not None:
            raise StoreUsageError(
                f"{shown(url)}: a store is pushed to the branch main of hf://datasets/{repository}; "
                f"leave out the revision",
                code="E-REMOTE-URL",
            )
        return cls(repository, path, private=private, message=message)

    def store_json(self) -> bytes | None:
        """Return the store.json of the latest commit, if any.

        Raises UsageError (E-PUSH-PUBLIC) if the repository is public and should be private.
        """
        try:
            with self._errors():
                info = self._api.dataset_info(self._repository, expand=["private", "sha"])
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            return None
        if self._private and not info.private:
            raise UsageError(
                f"{self.location} exists and is public, but --private is given; make it private in its "
                f"settings on the Hub first",
                code="E-PUSH-PUBLIC",
            )
        self._commit = info.sha
        return self._read(f"{self._path}/{STORE_JSON}")

    def compare(self, files: Sequence[OutgoingFile]) -> Found:
        """Return what is there, by the hashes that the Hub has of it."""
        there = {} if self._commit is None else self._list()
        present = [file for file in files if file.name in there]
        same = {file.name for file in present if _is_same(file, there[file.name])}
        names = {file.name for file in present}
        return Found(same, names - same, set(there) - names)

    def create(self) -> None:
        """Create the repository, unless it exists."""
        if self._commit is None:
            with self._errors():
                self._api.create_repo(
                    self._repository,
                    repo_type=DATASET,
                    private=self._private or None,
                    exist_ok=True,
                )
                self._commit = self._api.dataset_info(self._repository, expand=["sha"]).sha

    def send(self, files: Sequence[OutgoingFile], count: Callable[[int], object]) -> None:
        """Upload files, and commit them in parts."""
        for part in _divided(files, COMMIT_FILES, COMMIT_BYTES):
            additions: list[CommitOperationAdd] = []
            for group in _divided(part, UPLOAD_FILES, UPLOAD_BYTES):
                additions += self._upload(group)
                count(sum(file.size for file in group))
            self._commit_now(additions)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files with a commit."""
        if names:
            self._commit_now(
                [
                    self._hub.CommitOperationDelete(self._prefix + name, is_folder=False)
                    for name in names
                ]
            )

    def finish(self, store_json: OutgoingFile, store: FeatureStore) -> None:
        """Commit store.json, and with it a card if the repository has none."""
        additions = self._upload([store_json])
        if self._read(f"/{README}") is None:
            has_licence = not self._path and LICENCE in store.metadata.documents
            facts = replace(gather(store, sampled=False), url=self.location)
            card = readme(facts, folder=self._prefix, licence_file=LICENCE if has_licence else None)
            additions.append(self._hub.CommitOperationAdd(README, card.encode()))
        self._commit_now(additions)

    def _read(self, name: str) -> bytes | None:
        """Return a small file of the repository, None if it does not exist."""
        folder = RemoteFolder.open(f"hf://datasets/{self._repository}@{self._commit}")
        try:
            return read_file(folder.url(name[1:]), MAX_STORE_JSON_BYTES)
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            return None

    def _list(self) -> "dict[str, RepoFile]":
        """Return the files of the folder at the latest commit."""
        try:
            with self._errors():
                entries = self._api.list_repo_tree(
                    self._repository,
                    self._path[1:] or None,
                    recursive=True,
                    revision=self._commit,
                    repo_type=DATASET,
                )
                return {
                    entry.path.removeprefix(self._prefix): entry
                    for entry in entries
                    if isinstance(entry, self._hub.hf_api.RepoFile)
                }
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            return {}

    def _upload(self, files: Sequence[OutgoingFile]) -> "list[CommitOperationAdd]":
        """Upload files without a commit; those that Git holds itself are sent with the commit.

        The library hashes each file while it sends it.
        """
        additions = [
            self._hub.CommitOperationAdd(self._prefix + file.name, str(file.path)) for file in files
        ]
        with self._errors():
            # An empty .gitignore: that of the repository must not leave out files.
            self._api.preupload_lfs_files(
                self._repository, additions=additions, repo_type=DATASET, gitignore_content=""
            )
            for file, addition in zip(files, additions, strict=True):
                file.compare(addition.upload_info.sha256.hex())
        return additions

    def _commit_now(
        self, operations: "Sequence[CommitOperationAdd | CommitOperationDelete]"
    ) -> None:
        """Commit, unless somebody else has done so in the meantime."""
        with self._errors():
            info = self._api.create_commit(
                self._repository,
                list(operations),
                commit_message=self._message,
                repo_type=DATASET,
                parent_commit=self._commit,
            )
        self._commit = info.oid

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turn errors of the library into ours; its texts may contain signed URLs."""
        http_error: type[Exception] = self._hub.errors.HTTPError  # type: ignore[reportPrivateImportUsage]
        try:
            yield
        except (http_error, OSError, RuntimeError, ValueError) as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> StoreError:
        cause: BaseException | None = error
        status = None
        while cause is not None and status is None:
            status = getattr(getattr(cause, "response", None), "status_code", None)
            cause = cause.__cause__ or cause.__context__
        endpoint = hub_endpoint()
        problem, code = (
            f"the Hub cannot be used ({type(error).__name__}); try again later",
            "E-REMOTE-HUB",
        )
        if status in (401, 403):
            problem = f"access denied (status {status}); {login_remedy(endpoint)}"
            code = "E-REMOTE-DENIED"
        elif status == 400:
            problem = "the Hub rejects a file (status 400); correct the header of README.md"
        elif status == 404:
            problem = f"does not exist, or needs a login; {login_remedy(endpoint)}"
            code = "E-REMOTE-ABSENT"
        elif status == 412:
            problem = (
                "somebody else has changed the repository in the meantime; run the command again"
            )
            code = "E-PUSH-RACE"
        elif status is not None:
            problem, code = (
                f"the Hub answers with status {status}; try again later",
                "E-REMOTE-STATUS",
            )
        return StoreError(f"{self.location}: {problem}", code=code)


def _divided(
    files: Sequence[OutgoingFile], most_files: int, most_bytes: int
) -> Iterator[list[OutgoingFile]]:
    """Yield the files in groups of so many files and bytes; one larger file is a group."""
    group: list[OutgoingFile] = []
    size = 0
    for file in files:
        if group and (len(group) == most_files or size + file.size > most_bytes):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def _is_same(file: OutgoingFile, there: "RepoFile") -> bool:
    """Return whether a file of the Hub has the content of one of ours; Git has a SHA-1 of small ones."""
    if there.size != file.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == file.sha256
    blob = b"blob %d\0" % file.size + file.content()
    return there.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest()
