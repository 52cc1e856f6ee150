"""The bytes of an image: in folders, through links, and behind URLs that fsspec reads."""

import errno
import functools
import http.server
import os
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import made, picture
from pictures import write_photographs
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.manifests import (
    Image,
    Manifest,
    ManifestError,
    read_content,
    read_manifest,
    write_manifest,
)
from clipfeat.manifests.contents import MAX_BYTES
from clipfeat.manifests.headers import read_sizes


class TestFolder:
    def test_files_and_links_to_files_and_folders(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data/a.jpg").write_bytes(b"bytes")
        (tmp_path / "root").mkdir()
        (tmp_path / "root/linked").symlink_to(tmp_path / "data")
        (tmp_path / "root/b.jpg").symlink_to(tmp_path / "data/a.jpg")
        root = str(tmp_path / "root")
        assert read_content(root, "linked/a.jpg") == read_content(root, "b.jpg") == b"bytes"

    def test_what_is_not_there(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"")
        for path in ("none.jpg", "none/a.jpg", "a.jpg/b.jpg", "none.tar/a.jpg"):
            with pytest.raises(FileNotFoundError):
                read_content(str(tmp_path), path)

    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "folder.jpg").mkdir()
        for name in ("pipe.jpg", "folder.jpg"):
            with pytest.raises(OSError, match=r"pipe|folder") as refused:
                read_content(str(tmp_path), name)
            assert refused.value.errno == (errno.EINVAL if "pipe" in name else errno.EISDIR)
            assert refused.value.filename == str(tmp_path / name)

    def test_a_file_beyond_reason_is_not_read(self, tmp_path):
        with (tmp_path / "a.jpg").open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(OSError, match=r"2,147,483,649 bytes are more than 2,147,483,648"):
            read_content(str(tmp_path), "a.jpg")

    def test_folders_are_walked_through_links_but_not_in_circles(self, tmp_path):
        write_photographs(tmp_path / "data", 2)
        (tmp_path / "root").mkdir()
        (tmp_path / "root/linked").symlink_to(tmp_path / "data")
        (tmp_path / "data/back").symlink_to(tmp_path / "root")
        manifest, _ = made(tmp_path / "root")
        assert [i.path for i in manifest.images] == ["linked/p000.jpg", "linked/p001.jpg"]


@pytest.fixture
def served(tmp_path):
    """A folder of images, and the URL at which a web server of the standard library shows it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def send_head(self):
            if self.path == "/forbidden.jpg":
                return self.send_error(403)
            return super().send_head()

    folder = write_photographs(tmp_path / "images", 3)
    (folder / "a b#?.jpg").write_bytes((folder / "p000.jpg").read_bytes())
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestUrl:
    def test_a_web_server(self, served):
        folder, url = served
        for path in folder.iterdir():
            assert read_content(url, path.name) == path.read_bytes()
        with pytest.raises(FileNotFoundError):
            read_content(url, "none.jpg")
        # The photographs are 64, 74 and 84 pixels wide in turn.
        assert read_sizes(url, ["p000.jpg", "p001.jpg", "none.jpg"]) == [(64, 48), (74, 48), (0, 0)]

    def test_a_table_of_files_on_a_web_server(self, served, tmp_path):
        _, url = served
        table = pa.table({"id": ["x", "y"], "path": ["p001.jpg", "gone.jpg"]})
        pq.write_table(table, tmp_path / "t.parquet")
        manifest, said = made(tmp_path / "t.parquet", root=f"{url}/")
        assert manifest.root == url
        assert manifest.images == (Image("x", "p001.jpg", 74, 48), Image("y", "gone.jpg", 0, 0))
        assert said == [
            f"{url} is a URL: files are not looked for now; extraction reports those that are missing"
        ]
        write_manifest(manifest, tmp_path / "m.parquet")
        assert read_manifest(tmp_path / "m.parquet") == manifest

    def test_a_server_that_is_down(self):
        with pytest.raises(OSError, match=r"Cannot connect to host 127\.0\.0\.1:9") as raised:
            read_content("http://127.0.0.1:9", "a.jpg")
        assert not isinstance(raised.value, FileNotFoundError)

    def test_a_table_whose_server_is_down_names_it(self, tmp_path):
        pq.write_table(pa.table({"id": ["x"], "path": ["a.jpg"]}), tmp_path / "t.parquet")
        with refuses("E-IMAGES-NETWORK", "http://127.0.0.1:9/x: a.jpg", kind=ManifestError):
            made(tmp_path / "t.parquet", root="http://127.0.0.1:9/x")

    def test_a_server_that_refuses(self, served):
        _, url = served
        with pytest.raises(OSError, match="403") as raised:
            read_content(url, "forbidden.jpg")
        assert not isinstance(raised.value, FileNotFoundError)

    def test_an_object_store(self, tmp_path):
        content = picture(tmp_path / "a.jpg", 30, 20).read_bytes()
        fsspec.filesystem("memory").pipe("/bucket/x/a.jpg", content)
        assert read_content("memory://bucket", "x/a.jpg") == content
        assert read_sizes("memory://bucket/x", ["a.jpg"]) == [(30, 20)]
        with pytest.raises(FileNotFoundError):
            read_content("memory://bucket", "x/b.jpg")

    def test_a_driver_that_is_not_installed(self):
        with refuses("E-URL-DRIVER", "abfs://x: reading abfs://", "adlfs", kind=UsageError):
            read_content("abfs://x", "a.jpg")

    @pytest.mark.parametrize(
        "root",
        [
            "file:///etc",
            "reference://x",
            "github://a:b@c/",
            "simplecache::http://x",
            "http://x/::file:///etc",
        ],
    )
    def test_urls_of_other_kinds_are_refused(self, root):
        with refuses("E-MANIFEST-ROOT", root, kind=ManifestError):
            Manifest.of(root, [Image("a", "a.jpg", 1, 1)])

    def test_folders_cannot_be_listed_there(self, tmp_path):
        write_photographs(tmp_path / "x", 1)
        with refuses("E-MANIFEST-ROOT", "memory://bucket", kind=ManifestError):
            made(tmp_path / "x", root="memory://bucket")
