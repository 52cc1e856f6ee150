"""Paths on the command line: a URL is rejected, and shown as it was typed."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pictures import write_photographs
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.cli.options import LocalPath, StorePath
from clipfeat.featstore import StoreError

URL = "http://host/x"


def path_parameters(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from path_parameters(below, f"{name} {below.name}")
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            yield name, parameter


def test_every_path_of_every_command_refuses_urls():
    found = list(path_parameters(clipfeat, "clipfeat"))
    assert len(found) > 20
    assert [(name, p.name) for name, p in found if not isinstance(p.type, LocalPath)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("store", "repair", URL),
        ("store", "finish", URL),
        ("store", "describe", URL, "--title", "a"),
        ("store", "convert", "s", URL, "--codec", "none"),
        ("store", "subset", URL, URL, "--status", "ok"),
        ("train", "vqa", "--store", "s", "--data", URL, "--out", "o"),
        ("extract", "--model", "RN50", "--images", URL),
        ("extract", "--model", "RN50", "--images", "i", "--out", URL),
        ("train", "vqa", URL, "--store", "s", "--data", "d", "--out", "o"),
    ],
)
def test_a_url_is_shown_as_it_was_typed(arguments):
    done = CliRunner().invoke(clipfeat, arguments)
    assert isinstance(done.exception, UsageError)
    assert done.exception.code == "E-PATH-URL"
    assert str(done.exception).startswith(f"{URL}: ")


def test_a_store_may_be_at_a_url_wherever_it_is_only_read():
    found = list(path_parameters(clipfeat, "clipfeat"))
    stores = {name for name, p in found if isinstance(p.type, StorePath)}
    assert {name.removeprefix("clipfeat store ") for name in stores if " store " in name} == {
        "info", "ls", "stats", "verify", "digest", "diff", "card",
        "subset", "merge", "convert", "pool", "reshard",
    }  # fmt: skip
    assert all(isinstance(p.type, StorePath) for _, p in found if p.name == "store")
    assert {name.split()[1] for name in stores} == {
            "store", "train", "rerun", "eval", "predict", "export", "view",
        }  # fmt: skip


@pytest.mark.parametrize("command", ["info", "ls", "stats", "verify", "digest"])
def test_a_url_of_another_kind_is_refused(command):
    done = CliRunner().invoke(clipfeat, ["store", command, "ftp://host/x"])
    assert isinstance(done.exception, StoreError)
    assert done.exception.code == "E-REMOTE-URL"
    assert str(done.exception).startswith("ftp://host/x: ")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "vqa", "--store", "nowhere", "--data", "nowhere"),
        ("train", "ve", "--store", "nowhere", "--data", "nowhere"),
        ("train", "caption", "--store", "nowhere", "--data", "nowhere"),
        ("train", "pretrain", "--store", "nowhere", "--data", "nowhere"),
        ("corpus", "--captions", "."),
        ("extract", "--model", "no such model", "--images", "images"),
    ],
)
def test_a_folder_that_cannot_be_made_is_found_before_anything_else(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / "images", 1)
    (tmp_path / "captions_train2014.json").write_text("not JSON")
    (tmp_path / "captions_val2014.json").write_text("not JSON")
    (tmp_path / "file").write_text("")
    with refuses("E-PATH-FOLDER", "--out file/out", kind=UsageError):
        CliRunner().invoke(clipfeat, [*command, "--out", "file/out"], catch_exceptions=False)


def test_links_that_lead_to_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for code, command in (
        ("E-PATH-FOLDER", "demo-data loop/data --images 10"),
        ("E-COMPARE-RUNS", "compare loop loop"),
    ):
        with refuses(code, "loop", kind=UsageError):
            CliRunner().invoke(clipfeat, command.split(), catch_exceptions=False)


def test_an_empty_run_to_start_from_is_not_a_start_from_random_weights(tmp_path: Path) -> None:
    command = ["train", "vqa", "--store", "s", "--data", "d", "--out", str(tmp_path), "--init", ""]
    with refuses("E-PATH-EMPTY", kind=UsageError):
        CliRunner().invoke(clipfeat, command, catch_exceptions=False)
