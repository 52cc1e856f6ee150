"""Logins for S3 come from the environment, or else from the files of the AWS tools."""

import pytest

from clipfeat.base.credentials import aws_login, is_loopback


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    for name in ("ACCESS_KEY_ID", "PROFILE", "REGION", "DEFAULT_REGION", "CONFIG_FILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    (tmp_path / ".aws").mkdir()
    (tmp_path / "keys").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n\n"
        "[lab]\naws_access_key_id = C\naws_secret_access_key = D%d\naws_session_token = E\n"
    )
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = eu-west-1\n\n[profile lab]\noutput = x"
    )


def test_the_profile_decides(monkeypatch):
    keys = {"aws_access_key_id": "A", "aws_secret_access_key": "B"}
    assert aws_login() == {**keys, "region": "eu-west-1"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    keys = {"aws_access_key_id": "C", "aws_secret_access_key": "D%d", "aws_session_token": "E"}
    assert aws_login() == keys
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert aws_login() == {}


def test_the_environment_comes_first(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert aws_login() == {"region": "eu-west-1"}
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert aws_login() == {}


def test_files_that_cannot_be_read_are_not_used(tmp_path):
    (tmp_path / "keys").write_bytes(b"\xff no section")
    (tmp_path / ".aws/config").unlink()
    assert aws_login() == {}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["127.example.org", "localhost.example.org", "10.0.0.1", ""])
def test_other_machines_whose_names_look_like_this_one(host):
    """Over plain http they get no login."""
    assert not is_loopback(host)
