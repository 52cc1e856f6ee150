"""Logins: the Hub's token and ~/.netrc, sent only to the host that they belong to; keys for S3."""

import configparser
import netrc
import os
from base64 import b64encode
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from .errors import UsageError

HUB = "https://huggingface.co"


def hub_endpoint() -> str:
    """Return the URL of the Hugging Face Hub, or of the mirror that HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of a URL; a login belongs to all three.

    >>> origin("https://Host/a") == origin("https://host:443/b")
    True
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def authorization(url: str) -> str | None:
    """Return the value of the header Authorization for a URL, None without a login for its host.

    The Hub gets the token of HF_TOKEN or of `hf auth login`, any other host the login that ~/.netrc
    has for it by name. Over plain http a login is sent only to this machine. Raises UsageError for
    a token that no header can hold.
    """
    scheme, host, _ = origin(url)
    if scheme != "https" and not is_loopback(host):
        return None
    if origin(url) == origin(hub_endpoint()):
        token = _hub_token()
        return f"Bearer {token}" if token else None
    login = _netrc_login(host)
    return f"Basic {b64encode(':'.join(login).encode()).decode()}" if login else None


def login_remedy(url: str) -> str:
    """Return how to log in to the host of a URL."""
    if origin(url) == origin(hub_endpoint()):
        return "set HF_TOKEN, or log in with: hf auth login"
    return "if the server needs a login, write it into ~/.netrc"


def aws_login() -> dict[str, str]:
    """Return keys and region of the profile AWS_PROFILE in the files of the AWS tools, by name.

    These are ~/.aws/credentials and ~/.aws/config, or those of AWS_SHARED_CREDENTIALS_FILE and
    AWS_CONFIG_FILE. obstore itself reads only the environment, which comes first.
    """
    profile = os.environ.get("AWS_PROFILE") or "default"
    sections = {
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials": profile,
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config": (
            profile if profile == "default" else f"profile {profile}"
        ),
    }
    found: dict[str, str] = {}
    for path, section in sections.items():
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(path).expanduser(), encoding="utf-8")
        except (OSError, RuntimeError, UnicodeDecodeError, configparser.Error):
            continue  # the service says then that it needs a login
        if parser.has_section(section):
            found = {**dict(parser.items(section)), **found}
    names = {"region": ("AWS_REGION", "AWS_DEFAULT_REGION")}
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        names |= {key: (key.upper(),) for key in keys}
    return {
        name: found[name]
        for name, variables in names.items()
        if name in found and not any(map(os.environ.get, variables))
    }


def is_loopback(host: str) -> bool:
    """Return whether a host name means this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("127.example.org")
    (True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hub_token() -> str:
    """Return the user's token for the Hub, "" without one."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
        path = _expanded(os.environ.get("HF_TOKEN_PATH") or f"{home}/token")
        token = path.read_text(errors="replace").strip() if path.is_file() else ""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(
            "the token for the Hub (HF_TOKEN, or the file of hf auth login) must be one word of "
            "ASCII letters and digits; log in again with: hf auth login",
            code="E-REMOTE-TOKEN",
        )
    return token


def _expanded(path: str) -> Path:
    """Return a path with the user's home, if there is one, for ~; Path.expanduser needs one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _netrc_login(host: str) -> tuple[str, str] | None:
    """Return user and password that ~/.netrc has for `host`; its default entry is not used."""
    try:
        entry = netrc.netrc(_expanded("~/.netrc")).hosts.get(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None  # the server says then that it needs a login
    return (entry[0], entry[2]) if entry else None
