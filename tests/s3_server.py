"""A stand-in for S3: objects with ranges and conditions, uploads in parts, lists, deletions."""

import hashlib
from collections.abc import Callable
from itertools import count
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from recording_server import RecordingServer, Reply, Request, content_reply

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class StoredObject(NamedTuple):
    """An object with its metadata."""

    content: bytes
    metadata: dict[str, str]

    def headers(self) -> dict[str, str]:
        """Return the headers of answers."""
        etag = f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'
        return {"ETag": etag, "Last-Modified": DATE, **self.metadata}


class S3Server(RecordingServer):
    """Buckets come into being when they are used; `before_write` may refuse a change."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredObject] = {}  # by /bucket/key
        self.before_write: Callable[[Request], Reply | None] = lambda request: None
        self._numbers = count()
        self._uploads: dict[str, tuple[Request, dict[int, bytes]]] = {}

    def reset(self) -> None:
        """Forget everything."""
        self.objects.clear()
        self.requests.clear()
        self.before_write = lambda request: None

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the content of each object below /bucket/folder, by the rest of its key."""
        start = folder + "/"
        objects = self.objects.items()
        return {key.removeprefix(start): o.content for key, o in objects if key.startswith(start)}

    def reply(self, request: Request) -> Reply:
        """Answer as S3 does, as far as obstore uses it."""
        if request.method in ("GET", "HEAD"):
            return self._list(request) if "list-type" in request.query else self._get(request)
        if refused := self.before_write(request):
            return refused
        if request.method == "PUT":
            return self._put_part(request) if "uploadId" in request.query else self._put(request)
        if request.method == "POST":
            return self._post(request)
        self.objects.pop(request.path, None)
        self._uploads.pop(request.query.get("uploadId", ""), None)
        return Reply(204)

    def _get(self, request: Request) -> Reply:
        stored = self.objects.get(request.path)
        if stored is None:
            return Reply(404)
        return content_reply(request, stored.content, stored.headers())

    def _put(self, request: Request) -> Reply:
        stored = self.objects.get(request.path)
        etag = stored.headers()["ETag"] if stored else None
        if request.headers.get("if-none-match") == "*" and stored:
            return Reply(412)
        if "if-match" in request.headers and request.headers["if-match"] != etag:
            return Reply(412)
        return self._store(request, request.body)

    def _store(self, request: Request, content: bytes) -> Reply:
        given = request.headers.items()
        metadata = {name: value for name, value in given if name.startswith("x-amz-meta-")}
        self.objects[request.path] = StoredObject(content, metadata)
        return Reply(200, b"", self.objects[request.path].headers())

    def _put_part(self, request: Request) -> Reply:
        _, parts = self._uploads[request.query["uploadId"]]
        parts[int(request.query["partNumber"])] = request.body
        return Reply(200, b"", {"ETag": f'"{len(parts)}"'})

    def _post(self, request: Request) -> Reply:
        if "uploads" in request.query:
            number = f"upload{next(self._numbers)}"
            self._uploads[number] = request, {}
            return _xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
        if "uploadId" in request.query:
            begun, parts = self._uploads.pop(request.query["uploadId"])
            reply = self._store(begun, b"".join(parts[number] for number in sorted(parts)))
            etag = escape(reply.headers["ETag"])
            return _xml("CompleteMultipartUploadResult", f"<ETag>{etag}</ETag>")
        keys = [
            element.text
            for element in ElementTree.fromstring(request.body).iter()
            if element.tag.endswith("Key")
        ]
        for key in keys:
            self.objects.pop(f"{request.path.rstrip('/')}/{key}", None)
        return _xml("DeleteResult", "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys))

    def _list(self, request: Request) -> Reply:
        bucket = request.path.rstrip("/") + "/"
        start = bucket + request.query.get("prefix", "")
        entries = [
            f"<Contents><Key>{escape(key.removeprefix(bucket))}</Key><Size>{len(stored.content)}</Size>"
            f"<LastModified>2015-10-21T07:28:00.000Z</LastModified>"
            f"<ETag>{escape(stored.headers()['ETag'])}</ETag></Contents>"
            for key, stored in sorted(self.objects.items())
            if key.startswith(start)
        ]
        return _xml("ListBucketResult", "".join(entries))


def _xml(name: str, content: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return Reply(200, text.encode(), {"Content-Type": "application/xml"})
