"""A stand-in for the Hugging Face Hub: datasets, their trees, uploads and commits."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recording_server import RecordingServer, Reply, Request, content_reply

TOKEN = "hf_secret"
LFS_FROM = 500  # bytes; smaller files are kept by Git itself
DATASET = re.compile(r"/(?:api/)?datasets/([^/]+/[^/.]+)(?:\.git)?(/.*)?")


@dataclass
class Dataset:
    """A repository with the files of each commit, the latest last."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    @property
    def sha(self) -> str:
        """The name of the latest commit."""
        return self.name(len(self.commits) - 1)

    @staticmethod
    def name(number: int) -> str:
        """Return the name of a commit."""
        return hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()

    def at(self, revision: str) -> dict[str, bytes]:
        """Return the files at a commit or at main."""
        names = [self.name(number) for number in range(len(self.commits))]
        return self.commits[-1 if revision == "main" else names.index(revision)]


class HubServer(RecordingServer):
    """Knows one user, whose token is TOKEN; `before_write` may refuse a change."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, Dataset] = {}
        self.blobs: dict[str, bytes] = {}  # of LFS, by sha256
        self.before_write: Callable[[Request], Reply | None] = lambda request: None

    def reset(self) -> None:
        """Forget everything."""
        self.datasets.clear()
        self.blobs.clear()
        self.requests.clear()
        self.before_write = lambda request: None

    def writes(self) -> list[Request]:
        """Return the requests that change something."""
        ends = ("/create", "/commit/main")
        return [r for r in super().writes() if r.method == "PUT" or r.path.endswith(ends)]

    def reply(self, request: Request) -> Reply:
        """Answer as the Hub does, as far as its client needs it for a push."""
        if request.method == "PUT":  # to a URL with a signature, so without the token
            assert "authorization" not in request.headers
            if refused := self.before_write(request):
                return refused
            self.blobs[request.path.rpartition("/")[2]] = request.body
            return Reply()
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401)
        if request.path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if request.path == "/api/repos/create":
            return self.before_write(request) or self._create(json.loads(request.body))
        match = DATASET.fullmatch(request.path)
        dataset = self.datasets.get(match[1]) if match else None
        if match is None or dataset is None:
            return Reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        return self._of_dataset(request, match[2] or "", match[1], dataset)

    def _create(self, wanted: dict[str, Any]) -> Reply:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.datasets:
            return Reply(409)
        is_private = wanted.get("private") or wanted.get("visibility") == "private"
        self.datasets[name] = Dataset(bool(is_private))
        return _json({"url": f"{self.url}/datasets/{name}"})

    def _of_dataset(self, request: Request, rest: str, name: str, dataset: Dataset) -> Reply:
        kind, _, path = rest.removeprefix("/").partition("/")
        if kind in ("", "revision"):
            return _json({"id": name, "sha": dataset.sha, "private": dataset.private})
        if kind == "tree":
            return self._tree(dataset, path)
        if kind == "resolve":
            revision, _, file = path.partition("/")
            content = dataset.at(revision).get(file)
            return Reply(404) if content is None else content_reply(request, content, {})
        if kind == "preupload":
            return _json({"files": [_mode(file) for file in json.loads(request.body)["files"]]})
        if kind == "info":
            return _json(
                {"objects": [self._upload(o) for o in json.loads(request.body)["objects"]]}
            )
        assert kind == "commit", rest
        lines = [json.loads(line) for line in request.body.splitlines()]
        return self.before_write(request) or self._commit(name, dataset, lines)

    def _tree(self, dataset: Dataset, path: str) -> Reply:
        revision, _, folder = path.partition("/")
        entries = [
            _entry(name, content)
            for name, content in dataset.at(revision).items()
            if not folder or name.startswith(folder + "/")
        ]
        if folder and not entries:
            return Reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        return _json(entries)

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.blobs:
            href = f"{self.url}/uploads/{wanted['oid']}?X-Amz-Signature=signature"
            answer["actions"] = {"upload": {"href": href}}
        return answer

    def _commit(self, name: str, dataset: Dataset, lines: list[dict[str, Any]]) -> Reply:
        if lines[0]["value"].get("parentCommit", dataset.sha) != dataset.sha:
            return Reply(412)
        files = dict(dataset.commits[-1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                del files[value["path"]]
        dataset.commits.append(files)
        url = f"{self.url}/datasets/{name}/commit/{dataset.sha}"
        return _json({"commitUrl": url, "commitOid": dataset.sha})


def _json(content: Any) -> Reply:
    return Reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] >= LFS_FROM else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = b"blob %d\0" % len(content) + content
    oid = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": oid}
    if len(content) >= LFS_FROM:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry
