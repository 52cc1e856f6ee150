"""Stores are pushed to stand-ins for S3 and the Hub, with the real clients of both."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import isolate
from hub_server import TOKEN, HubServer
from recording_server import Reply, Request, running
from refused import refuses
from s3_server import S3Server
from stores import extend_store, make_store

from clipfeat.base import objects
from clipfeat.base.errors import StoreError, UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import Depth, FeatureStore, verify
from clipfeat.featstore.card.facts import gather
from clipfeat.featstore.card.readme import readme
from clipfeat.featstore.card.write import write_card
from clipfeat.featstore.layout import shard_path
from clipfeat.featstore.shards import ShardRow
from clipfeat.featstore.sharing import push_cloud, push_hub
from clipfeat.featstore.sharing.outgoing import HostLimits, fitting_shard_size
from clipfeat.featstore.sharing.pull import pull
from clipfeat.featstore.sharing.push import push
from clipfeat.featstore.writing.describe import describe

# Of huggingface_hub, about how it calls its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
S3, HUB = "s3://lab/shared/coco", "hf://datasets/lab/coco"
ABOUT = {"title": 'A "title": #1', "licence": "CC BY 4.0", "source_licence": "Flickr's terms"}
RECORDS = {
    f"image{k}": np.random.default_rng(k).standard_normal((2, 3, 32)).astype(np.float16)
    for k in range(10)
}
OTHER = {image_id: grid * 2 for image_id, grid in RECORDS.items()}
# A process that ends by SIGKILL when the server says so.
PROGRAM = """
import sys
from pathlib import Path
from clipfeat.featstore.sharing import push, push_hub
push_hub.COMMIT_FILES, push_hub.UPLOAD_FILES = 4, 2
push.push(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.fixture(scope="module")
def servers():
    s3, hub = S3Server(), HubServer()
    with running(s3), running(hub):
        yield {S3: s3, HUB: hub}


@pytest.fixture(autouse=True)
def environment(servers, monkeypatch, tmp_path):
    """Servers without content, and the logins that the clients find."""
    isolate(monkeypatch, tmp_path, [])
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ENDPOINT": servers[S3].url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "HF_ENDPOINT": servers[HUB].url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "CLIPFEAT_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Read from the environment when the module was imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", servers[HUB].url)
    monkeypatch.setattr(objects, "_process", None)
    objects._opened.cache_clear()
    for server in servers.values():
        server.reset()


@pytest.fixture
def store(tmp_path) -> Path:
    path = make_store(tmp_path / "store", RECORDS, shard_size=2)
    describe(path, ABOUT)
    return path


def files_at(servers, url: str) -> dict[str, bytes]:
    """Return what is at a URL, by name."""
    if url == S3:
        return servers[S3].files("/lab/shared/coco")
    return servers[HUB].datasets["lab/coco"].commits[-1]


both = pytest.mark.parametrize("url", [S3, HUB])


@both
def test_a_pushed_store_is_complete_and_pushed_only_once(servers, store, tmp_path, url):
    pushed = push(store, url)
    sizes = [file.stat().st_size for file in store.rglob("*") if file.is_file()]
    assert pushed.sent == sum(sizes)
    assert verify(url, Depth.DEEP) == []
    pull(url, tmp_path / "pulled")
    assert (tmp_path / "pulled/store.json").read_bytes() == (store / "store.json").read_bytes()
    count = len(servers[url].writes())
    assert push(store, url).sent == 0
    assert len(servers[url].writes()) == count


def test_store_json_is_written_last(servers, store):
    push(store, S3)
    assert [request.path for request in servers[S3].writes()][-1].endswith("/store.json")
    push(store, HUB)
    *before, last = servers[HUB].datasets["lab/coco"].commits
    assert set(last) - set(before[-1]) == {"store.json", "README.md"}


@both
def test_another_store_is_only_overwritten_if_that_is_wanted(servers, store, tmp_path, url):
    other = make_store(tmp_path / "other", OTHER, shard_size=3)
    push(other, url)
    before = len(servers[url].writes())
    with refuses("E-PUSH-OTHER", FeatureStore.open(other).digest, "--replace"):
        push(store, url)
    assert len(servers[url].writes()) == before
    push(store, url, replace=True)
    assert verify(url, Depth.DEEP) == []
    local = {file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file()}
    assert set(files_at(servers, url)) - {"README.md"} == local


@both
def test_a_store_that_is_being_overwritten_is_not_taken_for_a_store(servers, store, tmp_path, url):
    push(make_store(tmp_path / "other", OTHER, shard_size=2), url)
    seen: list[bool] = []

    def look(request: Request) -> None:
        if "c.0.0.0.0" in request.path or request.path.endswith("/commit/main"):
            seen.append("store.json" in files_at(servers, url))

    servers[url].before_write = look
    push(store, url, replace=True)
    # Of the Hub, the first commit removes it.
    assert seen == ([False] if url == S3 else [True, False, False])


@both
def test_an_update_keeps_the_shards_that_are_there(servers, store, url):
    push(store, url)
    more = np.ones((2, 3, 32), np.float16)
    extend_store(store, {**RECORDS, "new": more})
    count = len(servers[url].writes())
    with refuses("E-PUSH-OTHER"):
        push(store, url)
    push(store, url, replace=True)
    assert verify(url, Depth.DEEP) == []
    assert FeatureStore.open(url)["new"].tobytes() == more.tobytes()
    assert "index.parquet" not in files_at(servers, url)
    sent = [request.path for request in servers[url].writes()[count:]]
    assert not any("c.0.0.0.0" in path for path in sent)


@both
def test_new_texts_replace_store_json_of_the_same_digest(servers, store, url):
    push(store, url)
    describe(store, {**ABOUT, "homepage": "https://lab.example.org"})
    assert 0 < push(store, url).sent < 10_000
    assert FeatureStore.open(url).metadata.about.homepage == "https://lab.example.org"


@both
def test_other_files_in_the_way_are_not_overwritten(servers, store, url):
    push(store, url)
    if url == S3:
        del servers[S3].objects["/lab/shared/coco/store.json"]
        name = "/lab/shared/coco/index.parquet"
        servers[S3].objects[name] = (
            servers[S3].objects[name]._replace(content=b"other", metadata={})
        )
    else:
        commits = servers[HUB].datasets["lab/coco"].commits
        commits.append({"index.parquet": b"other", "notes.txt": b"mine"})
    count = len(servers[url].writes())
    with refuses("E-PUSH-FILES", "index.parquet", "--replace"):
        push(store, url)
    assert len(servers[url].writes()) == count
    push(store, url, replace=True)
    assert verify(url, Depth.DEEP) == []
    assert url == S3 or files_at(servers, url)["notes.txt"] == b"mine"


@both
def test_a_push_that_is_killed_continues_and_sends_nothing_twice(servers, store, url):
    server = servers[url]
    stored: Counter[str] = Counter()
    for writes in (5, None):  # before the kill; None: at store.json
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(store), url]) as process:
            left = writes

            def kill_or_count(request: Request, victim: int = process.pid) -> None:
                nonlocal left
                is_last = b"store.json" in request.body or request.path.endswith("store.json")
                if left is not None:
                    left -= 1
                if left == 0 or (left is None and is_last):
                    os.kill(victim, signal.SIGKILL)
                    raise ConnectionError
                stored[request.path] += request.method == "PUT"

            server.before_write = kill_or_count
            assert process.wait(60) == -signal.SIGKILL
        if url == S3 or servers[HUB].datasets:
            assert "store.json" not in files_at(servers, url)
    server.before_write = lambda request: stored.update([request.path] * (request.method == "PUT"))
    push(store, url)
    assert verify(url, Depth.DEEP) == []
    assert len(stored) > 8
    assert set(stored.values()) <= {0, 1}


@both
def test_a_store_that_is_not_complete_is_not_sent(servers, store, url):
    (store / "features.zarr/2x3/grid/c.1.0.0.0").unlink()
    with refuses("E-PUSH-STORE", "c.1.0.0.0"):
        push(store, url)
    assert servers[url].requests == []


@both
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_changed_file_does_not_arrive(servers, store, monkeypatch, url, in_parts):
    monkeypatch.setattr(push_cloud, "PART_BYTES", 300 if in_parts else 1 << 20)
    shard = store / "features.zarr/2x3/grid/c.1.0.0.0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with refuses("E-PUSH-CHANGED", "c.1.0.0.0", "store verify"):
        push(store, url)
    assert {"features.zarr/2x3/grid/c.1.0.0.0", "store.json"}.isdisjoint(files_at(servers, url))
    shard.write_bytes(content)
    push(store, url)
    assert verify(url, Depth.DEEP) == []


LIMITS = HostLimits("the host", files=40, files_per_folder=4, file_bytes=10**6)


@both
def test_limits_are_checked_before_the_first_request(servers, store, monkeypatch, url):
    for target in (push_hub.HubTarget, push_cloud.CloudTarget):
        monkeypatch.setattr(target, "limits", LIMITS)
    with refuses(
        "E-PUSH-LIMIT", "6 files in a folder", "reshard", "--shard-size 4", kind=UsageError
    ):
        push(store, url)
    assert servers[url].requests == []


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (HostLimits("h", files_per_folder=6), 4),  # 10 records: 3 shards, and zarr.json
        (HostLimits("h", files_per_folder=3), 8),
        (HostLimits("h", files=9), 4),
        (HostLimits("h", file_bytes=500), 1),  # 2 records have some 800 bytes
        (HostLimits("h", file_bytes=100), None),
        (HostLimits("h", files=4), None),
    ],
)
def test_the_named_size_of_shards_fits(store, limits, expected):
    opened = FeatureStore.open(store)
    lengths = opened.metadata.grid_shapes
    assert fitting_shard_size(opened.shards, lengths, 2, 6, limits) == expected


def test_five_million_images_fit_the_hub_with_larger_shards():
    shard = ShardRow(shard_path("14x14", "grid", 0), 60_000_000, "", "14x14", 0, 128)
    assert fitting_shard_size([shard], {"14x14": 5_000_000}, 128, 6, push_hub.LIMITS) == 512


def test_a_file_larger_than_a_part_is_sent_in_parts(servers, store, monkeypatch):
    monkeypatch.setattr(push_cloud, "PART_BYTES", 300)
    push(store, S3)
    assert any("partNumber" in request.query for request in servers[S3].requests)
    assert verify(S3, Depth.DEEP) == []


@both
def test_who_comes_second_does_not_overwrite_the_first(servers, store, monkeypatch, url):
    targets = {S3: push_cloud.CloudTarget, HUB: push_hub.HubTarget}
    finish = targets[url].finish

    def finish_second(self, *arguments):
        if url == S3:
            servers[S3].objects["/lab/shared/coco/store.json"] = next(
                iter(servers[S3].objects.values())
            )
        else:
            servers[HUB].datasets["lab/coco"].commits.append({})
        finish(self, *arguments)

    monkeypatch.setattr(targets[url], "finish", finish_second)
    with refuses("E-PUSH-RACE"):
        push(store, url)


def test_a_private_dataset_stays_private(servers, store):
    push(store, HUB, private=True, message="For the reviewers")
    assert servers[HUB].datasets["lab/coco"].private
    assert any(b'"For the reviewers"' in request.body for request in servers[HUB].writes())
    servers[HUB].datasets["lab/coco"].private = False
    count = len(servers[HUB].writes())
    with refuses("E-PUSH-PUBLIC", kind=UsageError):
        push(store, HUB, private=True)
    assert len(servers[HUB].writes()) == count


def test_a_store_may_be_in_a_folder_of_a_dataset(servers, store):
    push(store, f"{HUB}/14x14/final")
    push(store, f"{HUB}/second")
    assert verify(f"{HUB}/14x14/final", Depth.DEEP) == []
    assert "14x14/final/store.json" in files_at(servers, HUB)
    assert (
        b"store pull hf://datasets/lab/coco/14x14/final store"
        in files_at(servers, HUB)["README.md"]
    )


def test_a_card_of_the_author_is_kept(servers, store):
    (store / "README.md").write_text("# By hand")
    describe(store, ABOUT)
    push(store, HUB)
    assert files_at(servers, HUB)["README.md"] == b"# By hand"


def test_the_card_says_what_the_store_says(store):
    card = readme(gather(FeatureStore.open(store), sampled=False))
    header, body = card.removeprefix("---\n").split("\n---\n")
    assert 'license: cc-by-4.0\npretty_name: "A \\"title\\": #1"\nsize_categories:' in header
    assert "| licence of the images | Flickr's terms |" in body
    assert FeatureStore.open(store).digest in body
    describe(store, {"licence": "Ask us first"})
    card = readme(gather(FeatureStore.open(store), sampled=False), licence_file="LICENSE")
    assert 'license: other\nlicense_name: "ask-us-first"\nlicense_link: LICENSE\n' in card
    assert "| licence of the features | Ask us first |" in card
    describe(store, {"licence": None, "title": None})
    assert "license" not in readme(gather(FeatureStore.open(store), sampled=False))


def test_the_card_goes_along_and_is_the_card_of_the_dataset(servers, store):
    write_card(store)
    push(store, HUB)
    there = files_at(servers, HUB)
    for name in ("README.md", "documents/card.html", "croissant.json"):
        assert there[name] == (store / name).read_bytes()
    describe(store, {"title": "New"})
    with refuses("E-PUSH-STORE", "croissant.json", "clipfeat store card"):
        push(store, HUB)
    write_card(store)
    push(store, HUB)
    assert b"# New" in files_at(servers, HUB)["README.md"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://lab.example.org/coco", "E-PUSH-URL"),
        ("hf://datasets/lab/coco@v1", "E-REMOTE-URL"),
        ("hf://datasets/lab/coco/../x", "E-REMOTE-URL"),
        ("s3://user:secret@lab/coco", "E-REMOTE-URL"),
    ],
)
def test_other_urls_are_refused(store, url, code):
    with refuses(code) as error:
        push(store, url)
    assert "secret" not in str(error.value)


def test_a_card_that_the_hub_rejects_is_named(servers, store, monkeypatch):
    reply = HubServer.reply

    def rejecting(self, request):
        is_card = request.path == "/api/validate-yaml"
        return Reply(400, b'{"errors": []}') if is_card else reply(self, request)

    monkeypatch.setattr(HubServer, "reply", rejecting)
    with refuses("E-REMOTE-HUB", "README.md"):
        push(store, HUB)
    assert "store.json" not in files_at(servers, HUB)


def test_options_of_the_hub_are_refused_elsewhere(store):
    with refuses("E-PUSH-HUB", kind=UsageError):
        push(store, S3, private=True)
    with refuses("E-PUSH-MESSAGE", kind=UsageError):
        push(store, HUB, message="two\nlines")


def test_without_a_login_the_error_says_how_to_log_in(servers, store, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with refuses("E-REMOTE-DENIED", "hf auth login") as error:
        push(store, HUB)
    assert "hf_wrong" not in str(error.value)
    assert servers[HUB].writes() == []


@both
def test_secrets_are_never_shown(servers, store, capfd, url):
    refused = Reply(403, b"<Error>AWSAccessKeyId aws-secret hf_secret</Error>")
    servers[url].before_write = lambda request: refused
    done = CliRunner().invoke(clipfeat, ["store", "push", str(store), url])
    assert isinstance(done.exception, StoreError)
    shown = f"{done.output} {done.exception} {done.exception.code} {''.join(capfd.readouterr())}"
    assert "E-REMOTE-DENIED" in shown
    for secret in (TOKEN, "aws-secret", "Signature", "signature="):
        assert secret not in shown
    for file in store.rglob("*.json"):
        assert TOKEN not in file.read_text()


@pytest.mark.parametrize(
    ("url", "module", "extra"), [(HUB, "huggingface_hub", "[hub]"), (S3, "obstore", "[cloud]")]
)
def test_without_the_extra_the_error_says_what_to_install(store, monkeypatch, url, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.store", None)
    with refuses("E-EXTRA-MISSING", extra, kind=UsageError):
        push(store, url)


def test_the_command_prints_what_it_did(store):
    done = CliRunner().invoke(clipfeat, ["store", "push", str(store), HUB, "--json"])
    assert json.loads(done.stdout)["digest"] == FeatureStore.open(store).digest
    done = CliRunner().invoke(clipfeat, ["store", "push", str(store), HUB])
    assert "already complete" in done.stdout
