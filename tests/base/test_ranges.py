"""Reading ranges over HTTP: the right bytes, or one named error, whatever the server does."""

import os
import time

import pytest
from fault_server import FAULTS, Answer, FaultServer, file_answer, isolate, serving
from refused import refuses

from clipfeat.base import credentials, ranges
from clipfeat.base.errors import StoreError, UsageError
from clipfeat.base.ranges import read_file, read_range, shown, stream_range
from clipfeat.base.remote import RemoteFolder, parse_hub_url

CONTENT = bytes(range(256)) * 40
SECRET = "hf_SecretOfTheTest"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "file").write_bytes(CONTENT)
    with serving(folder) as server, serving(folder, "127.0.0.2") as other:
        yield server, other


@pytest.fixture
def waits():
    return []


@pytest.fixture
def server(servers, monkeypatch, waits, tmp_path) -> FaultServer:
    """A server without faults; waiting between attempts takes no time."""
    isolate(monkeypatch, tmp_path, waits)
    for each in servers:
        each.reset()
    return servers[0]


@pytest.fixture
def other(servers, server) -> FaultServer:
    """A second server, at another host."""
    return servers[1]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_ends_in_the_right_bytes_or_a_named_error(name, server, monkeypatch):
    fault, outcome = FAULTS[name]
    server.fault = fault
    monkeypatch.setattr(ranges, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(ranges, "DEADLINE_SECONDS", 0.5 if "trickle" in name else 100.0)
    began = time.monotonic()
    if outcome.startswith("E-"):
        with refuses(outcome, f"{server.url}/file", kind=StoreError):
            read_range(f"{server.url}/file", 300, 1000, size=len(CONTENT))
    else:
        content = read_range(f"{server.url}/file", 300, 1000, size=len(CONTENT))
        assert (content == CONTENT[300:1300]) == (outcome == "")
        assert len(content) == 1000
    assert len(server.requests) <= ranges.RETRIES + 1
    assert time.monotonic() - began < 30


def test_waits_are_those_that_the_server_asks_for(server, waits):
    for name, wait in [("429, wait 30", 30), ("429 of the Hub", 55)]:
        server.reset()
        server.fault = FAULTS[name][0]
        read_range(f"{server.url}/file", 0, 10)
        assert waits.pop() == wait
    server.reset()
    server.fault = FAULTS["429, wait a day"][0]
    with refuses("E-REMOTE-BUSY", "86,400"):
        read_range(f"{server.url}/file", 0, 10)
    assert not waits


def test_a_whole_file_has_a_limit_and_is_continued_after_a_drop(server):
    assert read_file(f"{server.url}/file", len(CONTENT)) == CONTENT
    server.fault = FAULTS["drop midway"][0]
    server.requests.clear()
    assert read_file(f"{server.url}/file", len(CONTENT)) == CONTENT
    assert [headers.get("range") for _, headers in server.requests] == [
        None, "bytes=5120-10239", "bytes=7680-10239",
    ]  # fmt: skip
    server.reset()
    with refuses("E-REMOTE-SIZE", f"{len(CONTENT):,}", "100"):
        read_file(f"{server.url}/file", 100)
    server.fault = lambda answer, n: answer.headers.pop("Content-Length")
    with refuses("E-REMOTE-SIZE", "100"):
        read_file(f"{server.url}/file", 100)
    server.fault = FAULTS["gzip always"][0]
    with refuses("E-REMOTE-ENCODING"):
        read_file(f"{server.url}/file", len(CONTENT))


def test_a_file_of_another_size_is_refused(server):
    with refuses("E-REMOTE-SIZE", f"{len(CONTENT):,}", "99,999"):
        read_range(f"{server.url}/file", 0, 10, size=99_999)
    with refuses("E-REMOTE-SIZE"):
        read_range(f"{server.url}/file", len(CONTENT), 10)


def test_nothing_is_requested_for_no_bytes(server):
    assert read_range(f"{server.url}/file", 5, 0) == b""
    assert not server.requests


def test_a_consumer_may_leave_early(server):
    pieces = stream_range(f"{server.url}/file", 0, len(CONTENT))
    next(pieces)
    del pieces
    assert read_range(f"{server.url}/file", 1, 2) == CONTENT[1:3]


def redirect(location: str, status: int = 302) -> Answer:
    answer = Answer(status, {}, b"")
    answer.is_(status, Location=location)
    return answer


def test_the_target_of_a_redirect_is_remembered_and_asked_again_when_it_expires(server, other):
    """As on the Hub: /resolve/ redirects to a signed URL of another host, valid for a while."""
    signature = 1

    def sign(target, headers):
        return redirect(f"{other.url}/file?Signature={SECRET}{signature}")

    def check(target, headers):
        if target.endswith(f"{SECRET}{signature}"):
            return file_answer(other.folder / "file", headers)
        return redirect("", 403)

    server.route, other.route = sign, check
    for k in range(5):
        assert read_range(f"{server.url}/resolve/file", k, 9) == CONTENT[k : k + 9]
    assert (len(server.requests), len(other.requests)) == (1, 5)
    signature = 2
    assert read_range(f"{server.url}/resolve/file", 7, 9) == CONTENT[7:16]
    assert (len(server.requests), len(other.requests)) == (2, 7)
    other.route = lambda target, headers: redirect("", 403)  # never heals
    with refuses("E-REMOTE-DENIED", f"{server.url}/resolve/file", "127.0.0.2") as refused:
        read_range(f"{server.url}/resolve/file", 7, 9)
    assert SECRET not in str(refused.value)
    assert (len(server.requests), len(other.requests)) == (3, 9)


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "ftp://host/x", "http://a:b@host/", "http://[x", "//"]
)
def test_redirects_that_nobody_should_follow(location, server):
    server.route = lambda target, headers: redirect(location)
    with refuses("E-REMOTE-REDIRECT", server.url):
        read_range(f"{server.url}/file", 0, 9)


def test_a_loop_of_redirects_ends(server):
    server.route = lambda target, headers: redirect("/file", 307)
    with refuses("E-REMOTE-REDIRECT", "5"):
        read_range(f"{server.url}/file", 0, 9)


def test_https_is_never_left_for_http():
    transfer = ranges._Transfer("https://host/a", 0, 1, None, 1)
    with refuses("E-REMOTE-REDIRECT", "https to http"):
        transfer._redirected("https://host/a", "http://host/a")


def test_the_token_of_the_hub_goes_to_the_hub_alone(server, other, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    server.route = lambda target, headers: redirect(f"{other.url}/file")
    assert read_range(f"{server.url}/resolve/file", 0, 9) == CONTENT[:9]
    assert server.requests[0][1]["authorization"] == f"Bearer {SECRET}"
    assert "authorization" not in other.requests[0][1]
    other.route = lambda target, headers: redirect("", 401)
    with refuses("E-REMOTE-DENIED") as refused:
        read_range(f"{server.url}/resolve/file", 0, 9)
    assert SECRET not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_fromfile\n")
    assert credentials.authorization(f"{server.url}/x") == "Bearer hf_fromfile"
    assert credentials.authorization("http://elsewhere/x") is None


def test_the_login_of_netrc_goes_to_its_host_alone(server, other, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text(
        "machine 127.0.0.1 login me password word\ndefault login all password word\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    server.route = lambda target, headers: redirect(f"{other.url}/file")
    read_range(f"{server.url}/file", 0, 9)
    assert server.requests[0][1]["authorization"] == "Basic bWU6d29yZA=="
    assert "authorization" not in other.requests[0][1]
    assert credentials.authorization("http://example.org/") is None


def test_a_token_that_no_header_can_hold_is_refused_without_being_shown(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "a\nb")
    with refuses("E-REMOTE-TOKEN") as refused:
        read_range(f"{server.url}/file", 0, 9)
    assert "a\nb" not in str(refused.value)


def test_the_proxy_of_the_environment_is_used(server, other, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    proxied = []

    def forward(target, headers):
        proxied.append(target)
        return file_answer(server.folder / "file", headers)

    server.route = forward
    assert read_range("http://example.invalid/file", 3, 9) == CONTENT[3:12]
    assert proxied == ["http://example.invalid/file"]
    monkeypatch.setenv("no_proxy", "127.0.0.2")
    assert read_range(f"{other.url}/file", 3, 9) == CONTENT[3:12]
    assert len(other.requests) == 1


def test_a_server_that_does_not_exist_is_a_named_error(server):
    with refuses("E-REMOTE-CONNECT", "http://127.0.0.1:1/file"):
        read_range("http://127.0.0.1:1/file", 0, 9)


def test_a_login_that_was_corrected_is_read_again(server, monkeypatch):
    """As in a notebook, where the same process tries again."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    right = lambda headers: headers.get("authorization") == f"Bearer {SECRET}"  # noqa: E731
    server.route = lambda _, headers: None if right(headers) else redirect("", 401)
    with refuses("E-REMOTE-DENIED"):
        read_range(f"{server.url}/file", 0, 9)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert read_range(f"{server.url}/file", 0, 9) == CONTENT[:9]


@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://host/x", "https://", "https://host:99999/x", "https://host:x/", "https://a:b@host/x",
        "https://host/x?y", "https://host/x#y", "https://host/\n", "https://höst/x",
        "hf://datasets/owner", "hf://models/owner/name", "hf://datasets/o/n/../../x",
        "hf://datasets/o/n@/x", "hf://datasets/o/n/.", "s3:///x", "s3://bucket/x?y", "https://a..b/x",
        "https://" + "a" * 64 + ".org/x",
    ],
)  # fmt: skip
def test_urls_that_are_not_read(url):
    with refuses("E-REMOTE-URL", kind=UsageError) as refused:
        RemoteFolder.open(url)
    assert "a:b" not in str(refused.value)


def test_the_parts_of_a_url_of_the_hub():
    assert parse_hub_url("hf://datasets/o/n") == ("o/n", None, "")
    assert parse_hub_url("hf://datasets/o/n.b@a%2Fb/c d/e//") == ("o/n.b", "a/b", "/c d/e")


def test_a_url_is_shown_without_secrets():
    assert shown("https://me:pass@host/a/b?Signature=1#x") == "https://host/a/b"
    assert shown("https://host?token=1") == "https://host"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub(target: str, headers: dict[str, str]) -> Answer | None:
    """Answer as the Hub does when it is asked for the commit of a branch."""
    if not target.startswith("/api/"):
        return None
    body = b'{"id": "lab/coco", "sha": "%s"}' % COMMIT.encode()
    if target != "/api/datasets/lab/coco/revision/main?expand=sha":
        return redirect("", 404)
    return Answer(200, {"Content-Length": str(len(body))}, body)


def test_a_branch_of_the_hub_is_pinned_to_its_commit(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.route = hub
    folder = RemoteFolder.open("hf://datasets/lab/coco/stores/a")
    assert folder.location == f"hf://datasets/lab/coco@{COMMIT}/stores/a"
    assert folder.url("x y") == f"{server.url}/datasets/lab/coco/resolve/{COMMIT}/stores/a/x%20y"
    assert RemoteFolder.open(folder.location) == folder
    assert len(server.requests) == 1
    with refuses("E-REMOTE-ABSENT"):
        RemoteFolder.open("hf://datasets/lab/coco@other")
    server.route = lambda target, headers: Answer(200, {"Content-Length": "2"}, b"[]")
    with refuses("E-REMOTE-HUB"):
        RemoteFolder.open("hf://datasets/lab/coco")


# Python 3.12 warns of every fork where there are threads; this is the case that it warns of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(server):
    url = f"{server.url}/file"
    assert read_range(url, 0, 9) == CONTENT[:9]
    child = os.fork()
    if not child:
        os._exit(0 if read_range(url, 9, 9) == CONTENT[9:18] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read_range(url, 1, 9) == CONTENT[1:10]
