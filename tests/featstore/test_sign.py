"""Signatures of store.json, by keys of minisign and of ssh."""

import json
import subprocess
import sys

import minisign
import numpy as np
import pytest
from click.testing import CliRunner
from logged import logged
from refused import refuses
from stores import extend_store, make_store

from clipfeat.base.errors import StoreError, UsageError
from clipfeat.cli import sharing
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import FeatureStore, describe, verify
from clipfeat.featstore.sharing.sign import check_signature, sign_store

GRID = np.ones((1, 1, 2), np.float16)


@pytest.fixture
def path(tmp_path):
    return make_store(tmp_path / "s", {"a": GRID})


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder of two keys of each kind: ours and other."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        pair = minisign.KeyPair.generate()
        (folder / f"{name}.key").write_bytes(bytes(pair.secret_key) + b"\n")
        (folder / f"{name}.pub").write_bytes(bytes(pair.public_key) + b"\n")
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / f"{name}_ssh")]
        subprocess.run(command, check=True)
    return folder


def no_password():
    raise AssertionError("no password is needed")


PAIRS = [("ours.key", "ours.pub"), ("ours_ssh", "ours_ssh.pub")]


@pytest.mark.parametrize(("private", "public"), PAIRS)
class TestBothKinds:
    def test_a_signature_is_checked(self, path, keys, private, public):
        signature = sign_store(path, keys / private, no_password)
        assert (
            signature.name
            == {"ours.key": "store.json.minisig", "ours_ssh": "store.json.sig"}[private]
        )
        assert check_signature(path, str(keys / public)).startswith(("minisign key ", "ssh key "))
        assert verify(path) == []

    def test_another_key(self, path, keys, private, public):
        sign_store(path, keys / private.replace("ours", "other"), no_password)
        with refuses("E-SIGN-SIGNER", kind=StoreError):
            check_signature(path, str(keys / public))

    def test_a_store_that_was_described_later(self, path, keys, private, public):
        name = sign_store(path, keys / private, no_password).name
        with logged() as lines:
            describe(path, {"title": "x"})
        assert f"({name}) is no longer valid" in lines[0]
        with refuses("E-SIGN-CONTENT", "clipfeat store describe", "sign", kind=StoreError):
            check_signature(path, str(keys / public))
        sign_store(path, keys / private, no_password)
        check_signature(path, str(keys / public))
        with logged() as lines:
            describe(path, {"title": "x"})  # the same text again
        assert lines == []
        check_signature(path, str(keys / public))

    def test_a_store_that_was_updated_later(self, path, keys, private, public):
        sign_store(path, keys / private, no_password)
        extend_store(path, {"a": GRID, "b": GRID})
        with refuses("E-SIGN-CONTENT", kind=StoreError):
            check_signature(path, str(keys / public))

    @pytest.mark.parametrize(
        "content",
        [b"", b"x\n" * 4, b"\0" * 100, b"x" * (1 << 17)],
        ids=["empty", "lines", "zeros", "too large"],  # pytest exports them to ssh-keygen
    )
    def test_files_that_are_not_a_signature(self, path, keys, private, public, content):
        sign_store(path, keys / private, no_password).write_bytes(content)
        with refuses("E-SIGN-FILE", kind=StoreError):
            check_signature(path, str(keys / public))

    def test_no_signature_and_a_link(self, path, keys, tmp_path, private, public):
        with refuses("E-SIGN-ABSENT", kind=StoreError):
            check_signature(path, str(keys / public))
        signature = sign_store(path, keys / private, no_password)
        signature.rename(tmp_path / "elsewhere")
        signature.symlink_to(tmp_path / "elsewhere")
        with refuses("E-SIGN-FILE", "symbolic link", kind=StoreError):
            check_signature(path, str(keys / public))

    def test_a_private_key_is_not_taken_for_the_public_one(self, path, keys, private, public):
        with refuses("E-SIGN-KEY", "private", kind=UsageError):
            check_signature(path, str(keys / private))


def test_the_trusted_comment_holds_the_digest(path, keys):
    sign_store(path, keys / "ours.key", no_password)
    digest = FeatureStore.open(path).digest
    lines = (path / "store.json.minisig").read_text().splitlines()
    assert lines[2] == f"trusted comment: clipfeat store {digest}"
    assert digest in check_signature(path, str(keys / "ours.pub"))


def test_the_text_of_a_minisign_key(path, keys):
    sign_store(path, keys / "ours.key", no_password)
    check_signature(path, (keys / "ours.pub").read_text().splitlines()[1])
    with refuses("E-SIGN-SIGNER", kind=StoreError):
        check_signature(path, (keys / "other.pub").read_text().splitlines()[1])


def test_an_ssh_signature_for_another_purpose(path, keys):
    content = (path / "store.json").read_bytes()
    command = ["ssh-keygen", "-Y", "sign", "-f", str(keys / "ours_ssh"), "-n", "git"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    (path / "store.json.sig").write_bytes(done.stdout)
    with refuses("E-SIGN-FILE", "another purpose", kind=StoreError):
        check_signature(path, str(keys / "ours_ssh.pub"))


def test_passwords(path, keys, tmp_path):
    key = minisign.SecretKey.from_file(keys / "ours.key")
    key.encrypt("secret", opslimit=1 << 15, memlimit=1 << 24)
    (tmp_path / "locked.key").write_bytes(bytes(key))
    with refuses("E-SIGN-KEY", "wrong password", kind=UsageError):
        sign_store(path, tmp_path / "locked.key", lambda: "guess")
    assert not (path / "store.json.minisig").exists()
    sign_store(path, tmp_path / "locked.key", lambda: "secret")
    check_signature(path, str(keys / "ours.pub"))


def test_a_password_is_only_asked_on_a_terminal():
    code = "from clipfeat.cli.sharing import _ask_password; _ask_password()"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert (
        "UsageError: the key has a password, which can only be typed on a terminal" in done.stderr
    )


def test_keys_that_cannot_be_used(path, keys, tmp_path):
    (tmp_path / "text").write_text("not a key")
    (tmp_path / "cut.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZ")
    for key in ("nowhere.pub", str(tmp_path / "text"), str(tmp_path), str(tmp_path / "cut.pub")):
        with refuses("E-SIGN-KEY", key, kind=UsageError):
            check_signature(path, key)
    with refuses("E-SIGN-KEY", "--signed-by is empty", kind=UsageError):
        check_signature(path, "")
    for key in (tmp_path / "text", tmp_path / "nowhere.key"):
        with refuses("E-SIGN-KEY", str(key), kind=UsageError):
            sign_store(path, key, no_password)


def test_a_signature_that_cannot_be_written(path, keys):
    (path / "store.json.minisig").mkdir()
    with refuses("E-SIGN-WRITE", "store.json.minisig", kind=StoreError):
        sign_store(path, keys / "ours.key", no_password)


def test_what_is_not_a_store(tmp_path, keys):
    with refuses("E-STORE-ABSENT", kind=StoreError):
        sign_store(tmp_path, keys / "ours.key", no_password)
    with refuses("E-STORE-ABSENT", kind=StoreError):
        check_signature(tmp_path, str(keys / "ours.pub"))


def test_without_ssh_keygen(path, keys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with refuses("E-SIGN-PROGRAM", kind=UsageError):
        sign_store(path, keys / "ours_ssh", no_password)


def test_the_commands(path, keys, monkeypatch):
    monkeypatch.setattr(sharing, "_ask_password", no_password)
    run = CliRunner().invoke
    done = run(clipfeat, ["store", "sign", str(path), "--key", str(keys / "ours.key")])
    assert done.output == f"{path}/store.json.minisig written\n"
    words = ["store", "verify", str(path), "--json", "--signed-by"]
    record = json.loads(run(clipfeat, [*words, str(keys / "ours.pub")]).output)
    assert record["ok"]
    assert record["signed_by"].startswith("minisign key ")
    refused = run(clipfeat, [*words, str(keys / "ours_ssh.pub")])
    assert getattr(refused.exception, "code", "") == "E-SIGN-ABSENT"
    words[2] = "http://127.0.0.1/s"
    assert (
        getattr(run(clipfeat, [*words, str(keys / "ours.pub")]).exception, "code", "")
        == "E-SIGN-URL"
    )
