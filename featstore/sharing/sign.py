"""Detached signatures of store.json: who vouches for a store, with a key of minisign or of ssh.

store.json has the digest and the sha256 of every table, so a signature of its bytes covers the store,
and the licence and the other texts too.
"""

# pyright: reportMissingTypeStubs=false
# minisign has types, but does not say so.

import base64
import binascii
import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...base.errors import StoreError, UsageError, needs_extra, reason_of
from ...base.files import read_bytes, write_atomically
from ...base.text import printable
from ..layout import SIGNATURES, STORE_JSON
from ..metadata import MAX_STORE_JSON_BYTES, read_metadata
from ..store import FeatureStore

MINISIG, SSHSIG = SIGNATURES
NAMESPACE = "clipfeat"  # of signatures by ssh keys: one made for another purpose does not count
MAX_KEY_BYTES = 1 << 16  # of a key, and of a signature
MINISIGN_PUBLIC_KEY = re.compile(r"RW[A-Za-z0-9+/]{54}")  # base64 of 42 bytes that begin with "Ed"
SSH_PUBLIC_KEY = re.compile(rb"(?P<type>(ssh|ecdsa|sk)-[!-~]+) +(?P<key>[A-Za-z0-9+/=]+)")
SIGN_AGAIN = "ask for a new signature of the store as it is now (clipfeat store sign)"


def sign_store(path: Path, key: Path, ask_password: Callable[[], str]) -> Path:
    """Sign store.json with a private key and return the file of the signature.

    `key` is a minisign key, or one that `ssh-keygen -Y sign` takes: a private key, or a public key
    whose private key the ssh agent has. `ask_password` is called for a minisign key with a password;
    ssh-keygen asks for itself. Raises StoreError as `read_metadata` does, and if the signature
    cannot be written; UsageError for a key that cannot be used.
    """
    content = _signed_bytes(path)
    digest = read_metadata(path).digest
    if _read_key(key).startswith(b"untrusted comment:"):
        signature, name = _minisign(content, key, f"clipfeat store {digest}", ask_password), MINISIG
    else:
        command = ["-Y", "sign", "-f", str(key.absolute()), "-n", NAMESPACE]
        done = _ssh_keygen(command, content)
        if done.returncode:
            raise _unusable(key, _last_line(done.stderr))
        signature, name = done.stdout, SSHSIG
    try:
        write_atomically(path / name, signature)
    except OSError as error:
        raise StoreError(
            f"cannot write {path / name}: {reason_of(error)}; make the store's folder writable",
            code="E-SIGN-WRITE",
        ) from error
    return path / name


def check_signature(path: Path, key: str) -> str:
    """Check the signature of store.json and return by which key it is.

    `key` is the file of a public key, of minisign or ssh, or the text of a minisign key. Raises
    StoreError if there is no signature, if it is by another key, or of another store.json; UsageError
    for a key that cannot be used.
    """
    if not key:  # Path would take it for the current folder
        raise UsageError(
            "--signed-by is empty; give the file of a public key, or a minisign key",
            code="E-SIGN-KEY",
        )
    content = _signed_bytes(path)
    if MINISIGN_PUBLIC_KEY.fullmatch(key) and not Path(key).exists():
        return _check_minisign(path, content, key.encode(), key)
    public = _read_key(Path(key))
    if b"SECRET KEY" in public.upper() or b"PRIVATE KEY" in public:
        raise _unusable(key, "it is a private key; give the public one, which ends in .pub")
    if public.startswith(b"untrusted comment:"):
        return _check_minisign(path, content, [*public.splitlines(), b""][1], key)
    if match := SSH_PUBLIC_KEY.match(public):
        try:
            base64.b64decode(match["key"], validate=True)
        except binascii.Error:
            raise _unusable(key, "it is damaged") from None
        return _check_ssh(path, content, match["type"].decode(), match["key"].decode())
    raise _unusable(key, "it is neither a minisign nor an ssh key")


def _signed_bytes(path: Path) -> bytes:
    if not (path / STORE_JSON).is_file():
        FeatureStore.open(path)  # raises an error that says what is there instead
    return read_bytes(path / STORE_JSON, MAX_STORE_JSON_BYTES)


def _minisign(
    content: bytes, path: Path, trusted_comment: str, ask_password: Callable[[], str]
) -> bytes:
    """Return a minisign signature; the key in memory is overwritten at the end."""
    with needs_extra("sign"):
        import minisign
    try:
        with minisign.SecretKey.from_bytes(_read_key(path)) as key:
            if key.is_encrypted():
                key.decrypt(ask_password())
            return bytes(key.sign(content, trusted_comment=trusted_comment)) + b"\n"
    except minisign.Error as error:
        raise _unusable(path, str(error)) from None


def _check_minisign(path: Path, content: bytes, public: bytes, key: str) -> str:
    with needs_extra("sign"):
        import minisign
    try:
        public_key = minisign.PublicKey.from_base64(public)
    except minisign.Error as error:
        raise _unusable(key, str(error)) from None
    stored = _read_signature(path, MINISIG)
    try:
        signature = minisign.Signature.from_bytes(stored)
    except minisign.Error as error:
        raise _damaged(path, MINISIG, str(error)) from None
    wanted, signer = _key_id(public), _key_id(stored.splitlines()[1])
    if signer != wanted:
        raise _other_key(path, MINISIG, f"minisign key {signer}", wanted)
    try:
        public_key.verify(content, signature)
    except minisign.Error:
        raise _other_content(path, MINISIG) from None
    return f"minisign key {wanted} ({printable(signature.trusted_comment)})"


def _key_id(line: bytes) -> str:
    """Return the number of a minisign key, as minisign prints it, from a line of base64."""
    return f"{int.from_bytes(base64.b64decode(line)[2:10], 'little'):X}"


def _check_ssh(path: Path, content: bytes, kind: str, public: str) -> str:
    """Check a signature by an ssh key; the format is that of OpenSSH's PROTOCOL.sshsig."""
    stored = _read_signature(path, SSHSIG)
    try:
        blob = base64.b64decode(b"".join(stored.split(b"-----")[2].split()), validate=True)
        _, size = struct.unpack_from(">II", blob, len(b"SSHSIG"))
    except (ValueError, IndexError, struct.error):
        raise _damaged(path, SSHSIG, "it is not a signature by an ssh key") from None
    signer, wanted = _fingerprint(blob[14 : 14 + size]), _fingerprint(base64.b64decode(public))
    if signer != wanted:
        raise _other_key(path, SSHSIG, f"ssh key {signer}", wanted)
    with tempfile.TemporaryDirectory() as folder:
        # ssh-keygen reads a copy: what the store has may be a link, or may change.
        allowed, copy = Path(folder, "allowed_signers"), Path(folder, "signature")
        allowed.write_text(f'{NAMESPACE} namespaces="{NAMESPACE}" {kind} {public}\n')
        copy.write_bytes(stored)
        signer_options = ["-f", str(allowed), "-I", NAMESPACE, "-n", NAMESPACE, "-s", str(copy)]
        done = _ssh_keygen(["-Y", "verify", *signer_options], content)
    if done.returncode:
        if b"namespace" in done.stderr:
            raise _damaged(path, SSHSIG, f"it was made for another purpose than {NAMESPACE!r}")
        raise _other_content(path, SSHSIG)
    return f"ssh key {wanted}"


def _fingerprint(key: bytes) -> str:
    """Return the fingerprint of a public ssh key, as ssh-keygen prints it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip('=')}"


def _ssh_keygen(arguments: list[str], content: bytes) -> "subprocess.CompletedProcess[bytes]":
    """Run ssh-keygen with `content` on its stdin; it asks for a password on the terminal."""
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=content, capture_output=True)
    except FileNotFoundError:
        raise UsageError(
            "signatures by ssh keys need the program ssh-keygen; install OpenSSH, "
            "or use a minisign key",
            code="E-SIGN-PROGRAM",
        ) from None


def _read_key(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_KEY_BYTES, follow=True)
    except OSError as error:
        raise _unusable(path, reason_of(error)) from None


def _read_signature(path: Path, name: str) -> bytes:
    try:
        return read_bytes(path / name, MAX_KEY_BYTES)
    except FileNotFoundError:
        raise StoreError(
            f"{path} has no signature of this kind: {name} does not exist; {SIGN_AGAIN}",
            code="E-SIGN-ABSENT",
        ) from None
    except OSError as error:
        raise _damaged(path, name, reason_of(error)) from None


def _last_line(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["ssh-keygen failed"])[-1]


def _unusable(key: object, problem: str) -> UsageError:
    return UsageError(f"{key}: this key cannot be used: {problem}", code="E-SIGN-KEY")


def _damaged(path: Path, name: str, problem: str) -> StoreError:
    return StoreError(
        f"{path / name} is not a valid signature: {problem}; copy it again from its source",
        code="E-SIGN-FILE",
    )


def _other_key(path: Path, name: str, signer: str, wanted: str) -> StoreError:
    return StoreError(
        f"{path / name} was made with {signer}, not with {wanted}; "
        f"compare the key with the one that the author publishes",
        code="E-SIGN-SIGNER",
    )


def _other_content(path: Path, name: str) -> StoreError:
    return StoreError(
        f"{path}: {STORE_JSON} is not the file that was signed in {name}: it was written again later "
        f"(by clipfeat store describe, or an update), or somebody has changed it; {SIGN_AGAIN}",
        code="E-SIGN-CONTENT",
    )
