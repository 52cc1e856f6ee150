"""A folder behind a URL: on a web server, in a dataset repository of the Hub, or in a cloud."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote

from .credentials import hub_endpoint
from .errors import StoreError, StoreUsageError
from .jsonio import parse_json
from .ranges import read_file, require_url, shown

HUB_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_URL = re.compile(
    rf"hf://datasets/(?P<repository>{HUB_NAME}/{HUB_NAME})(@(?P<revision>[^/@?#]{{1,200}}))?"
    r"(?P<path>(/[A-Za-z0-9._ ~+-]+)*)/*"
)
COMMIT = re.compile("[0-9a-f]{40}")
MAX_INFO_BYTES = 1 << 20  # of the Hub's answer about a revision


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL; its files are read with `base/ranges.py`."""

    location: str  # what a person passes and reads; of the Hub it names the commit
    root: str  # the URL that is read, without a slash at its end

    @classmethod
    def open(cls, url: str) -> Self:
        """Return the folder at a URL: https, http, s3, gs, az, or one of the Hugging Face Hub.

        The latter is `hf://datasets/OWNER/NAME[@REVISION][/PATH]`. A branch or a tag, `main` if none
        is given, is looked up once: the folder then stays at that commit. Raises StoreUsageError for
        any other URL (E-REMOTE-URL), and as `read_file` does.
        """
        if not url.startswith("hf://"):
            require_url(url)
            folder = url.rstrip("/")
            return cls(folder, folder)
        repository, revision, path = parse_hub_url(url)
        commit = revision or "main"
        if not COMMIT.fullmatch(commit):
            commit = _commit_of(repository, commit)
        root = f"{hub_endpoint()}/datasets/{repository}/resolve/{commit}{quote(path)}"
        require_url(root)
        return cls(f"hf://datasets/{repository}@{commit}{path}", root)

    def url(self, name: str) -> str:
        """Return the URL of a file, whose name is relative to the folder."""
        return f"{self.root}/{quote(name)}"


class HubFolder(NamedTuple):
    """A folder in a dataset repository of the Hub."""

    repository: str  # OWNER/NAME
    revision: str | None
    path: str  # empty, or begins with a slash


def parse_hub_url(url: str) -> HubFolder:
    """Return the parts of `hf://datasets/OWNER/NAME[@REVISION][/PATH]`.

    Raises StoreUsageError (E-REMOTE-URL) for another URL.
    """
    match = HUB_URL.fullmatch(url)
    if match is None or {".", ".."} & set(match["path"].split("/")):
        raise StoreUsageError(
            f"{shown(url)}: a URL of the Hub must be like hf://datasets/OWNER/NAME/PATH or "
            f"hf://datasets/OWNER/NAME@REVISION/PATH",
            code="E-REMOTE-URL",
        )
    revision = match["revision"]
    return HubFolder(match["repository"], revision and unquote(revision), match["path"])


def _commit_of(repository: str, revision: str) -> str:
    """Return the commit that a branch or a tag of a dataset has now."""
    url = f"{hub_endpoint()}/api/datasets/{repository}/revision/{quote(revision, safe='')}"
    require_url(url)
    try:
        info: Any = parse_json(read_file(f"{url}?expand=sha", MAX_INFO_BYTES))
        commit = info["sha"]
    except (ValueError, TypeError, KeyError):
        commit = None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise StoreError(
            f"{url}: the answer does not name a commit; is HF_ENDPOINT the URL of a Hub?",
            code="E-REMOTE-HUB",
        )
    return commit
