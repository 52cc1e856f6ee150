"""Commands of clipfeat store for stores that go from lab to lab: serve, pull, push, sign, diff."""

import contextlib
import getpass
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ..base.errors import UsageError
from ..base.text import counted, is_url, printable, tell
from .options import LocalPath, StorePath, as_json, cache, patient_stdout, show
from .selection import selection, write_selection
from .store import store_argument

if TYPE_CHECKING:
    from ..featstore import FeatureStore

logger = logging.getLogger(__name__)

RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([kMG]?B)/s")
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@click.command()
@click.argument("folder", metavar="DIR", type=LocalPath(exists=True, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 is any free one.",
)
def serve(*, folder: Path, host: str, port: int) -> None:
    """Serve DIR, a store or a folder of stores, over HTTP.

    Prints the URL of each store, with its digest and title. Everything is read-only, and nothing
    else than the files of stores can be read. There is no login and no encryption: for more than
    this machine put a web server in front. Ctrl-C or SIGTERM ends the command, with exit code 0.

    \b
    $ clipfeat store serve coco.clipfeat
    $ clipfeat store serve /data/stores --port 8080
    """
    from ..base.credentials import is_loopback
    from ..featstore.sharing.serve import StoreServer

    # A server ends when it is told to, so neither Ctrl-C nor SIGTERM is a failure.
    with StoreServer(folder, host, port) as server, contextlib.suppress(KeyboardInterrupt):
        if not is_loopback(host):
            logger.warning(
                f"everybody who can reach {host} can read these stores: there is no login"
            )
        for name, store in server.stores:
            metadata = store.metadata
            title = f"  {metadata.about.title}" if metadata.about.title else ""
            tell(f"{server.url}/{quote(name)}  {metadata.digest[:16]}{title}")
        sys.stdout.flush()
        server.serve_forever()


class Rate(click.ParamType):
    """Bytes a second, as a number with a unit: 50MB/s."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = RATE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a rate like 50MB/s or 800kB/s", param, ctx)
        return float(match[1]) * UNITS[match[2]]


@click.command()
@click.argument("url")
@click.argument("folder", metavar="DIR", type=LocalPath())
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    help="Another URL of the same store. May be repeated.",
)
@click.option("--limit", type=Rate(), metavar="RATE", help="Receive no faster, such as 50MB/s.")
@selection
@cache
@as_json
def pull(
    *,
    url: str,
    folder: Path,
    mirrors: tuple[str, ...],
    limit: float | None,
    ids: Path | None,
    splits: tuple[str, ...],
    skip_missing: int | None,
    statuses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy the store at URL, or some of its ids, to DIR, and verify it.

    URL is that of the folder with store.json: https://..., hf://datasets/OWNER/NAME[@REVISION],
    s3://..., gs://... or az://... (the last three need [cloud]).
    Run the same command again to continue a copy that was interrupted. Every file is checked
    against the digest while it is received. A mirror with another digest or wrong bytes is named,
    and not used any more.

    With --ids, --split or --status only those records are received. DIR becomes a smaller store,
    the one that store subset makes of a copy, and names the digest of the store at URL as its
    origin.

    \b
    $ clipfeat store pull https://lab.example.org/coco.clipfeat coco.clipfeat
    $ clipfeat store pull hf://datasets/lab/coco coco.clipfeat --limit 50MB/s
    $ clipfeat store pull hf://datasets/lab/coco val --split karpathy:dataset_coco.json:val
    """
    if ids or splits or statuses or skip_missing is not None:
        if mirrors or limit is not None:
            raise UsageError(
                "--mirror and --limit are for whole stores; leave them out, or pull all ids",
                code="E-PULL-CHOICE",
            )
        if not is_url(url):
            raise UsageError(
                f"{printable(url)} is not a URL; to copy some ids of a store on this machine, use "
                f"clipfeat store subset",
                code="E-PULL-CHOICE",
            )
        store = write_selection(url, folder, ids, splits, skip_missing, statuses)
        _show_part(store, folder, as_json=as_json)
        return
    from ..featstore import Status
    from ..featstore.sharing.pull import pull as pull_store

    metadata, received = pull_store(url, folder, mirrors, limit)
    record = {"store": str(folder), "digest": metadata.digest, "received": received}
    state = f"complete, {received:,} bytes received"
    records = counted(metadata.counts[Status.OK], "record")
    text = f"{folder}: {state}; {records}, digest {metadata.digest[:16]}..."
    show(record, text, as_json=as_json)


def _show_part(store: "FeatureStore", folder: Path, *, as_json: bool) -> None:
    """Print what was made of some ids of a store at a URL."""
    origin = store.identity.derived_from
    assert origin is not None
    record = {"store": str(folder), "digest": store.digest, "derived_from": origin.digest}
    text = (
        f"{folder}: complete; {counted(len(store), 'record')}, digest {store.digest[:16]}..., "
        f"of the store {origin.digest[:16]}..."
    )
    show(record, text, as_json=as_json)


@click.command()
@store_argument
@click.argument("url")
@click.option("--private", is_flag=True, help="Of the Hub: create the dataset as a private one.")
@click.option("--message", metavar="TEXT", help="Of the Hub: message of the commits.")
@click.option("--replace", is_flag=True, help="Overwrite another store, or other files, at URL.")
@as_json
def push(
    *, path: Path, url: str, private: bool, message: str | None, replace: bool, as_json: bool
) -> None:
    """Copy STORE to URL, on the Hugging Face Hub or in a cloud.

    URL is hf://datasets/OWNER/NAME[/PATH] (needs [hub]), or that of a folder: s3://BUCKET/PATH,
    gs://BUCKET/PATH, az://CONTAINER/PATH (need [cloud]). A dataset of the Hub is created if
    it does not exist, with a card made of the texts of store describe. Run the same command again
    to continue a push that was interrupted. store.json is written last.

    \b
    $ clipfeat store push coco.clipfeat hf://datasets/lab/coco --private
    $ clipfeat store push coco.clipfeat s3://lab-features/coco.clipfeat
    """
    from ..featstore.sharing.push import push as push_store

    pushed = push_store(path, url, private=private, message=message, replace=replace)
    digest = pushed.metadata.digest
    record = {"store": pushed.location, "digest": digest, "sent": pushed.sent}
    state = f"complete, {pushed.sent:,} bytes sent" if pushed.sent else "already complete"
    show(record, f"{pushed.location}: {state}, digest {digest[:16]}...", as_json=as_json)


@click.command()
@store_argument
@click.option(
    "--key",
    required=True,
    type=LocalPath(),
    help="A private key of minisign or ssh; or an ssh key whose private key the ssh agent has.",
)
@as_json
def sign(*, path: Path, key: Path, as_json: bool) -> None:
    """Sign STORE with a key of minisign or ssh.

    Writes store.json.minisig or store.json.sig beside store.json. The signature covers the digest,
    the licence and all other texts: sign again after store describe. A minisign key needs [sign],
    an ssh key the program ssh-keygen. Run store verify before you sign.

    \b
    $ clipfeat store sign coco.clipfeat --key ~/.minisign/minisign.key
    $ clipfeat store sign coco.clipfeat --key ~/.ssh/id_ed25519
    """
    from ..featstore.sharing.sign import sign_store

    signature = sign_store(path, key, _ask_password)
    show({"signature": str(signature)}, f"{signature} written", as_json=as_json)


def _ask_password() -> str:
    """Ask on the terminal; UsageError if there is none, since the password would be visible."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass("Password of the key: ")
        except (getpass.GetPassWarning, EOFError):
            raise UsageError(
                "the key has a password, which can only be typed on a terminal; run the command "
                "there, or use a key without a password",
                code="E-SIGN-PASSWORD",
            ) from None


@click.command()
@click.argument("a", type=StorePath())
@click.argument("b", type=StorePath())
@cache
@as_json
def diff(*, a: str | Path, b: str | Path, as_json: bool) -> None:
    """Compare the stores A and B, folders or URLs: identities, ids, features.

    The verdict is "same bits", "same features" (every relative error is within the tolerance of the
    less exact precision of the two), or "DIFFERENT". Exits with 1 if they are different.

    \b
    $ clipfeat store diff ours.clipfeat theirs.clipfeat
    $ clipfeat store diff ours.clipfeat hf://datasets/lab/coco
    """
    from ..featstore import FeatureStore
    from ..featstore.report.diff import diff as diff_stores

    found = diff_stores(FeatureStore.open(a), FeatureStore.open(b))
    with patient_stdout():
        show(found.to_json(), found.text(), as_json=as_json)
    sys.exit(0 if found.is_same else 1)
