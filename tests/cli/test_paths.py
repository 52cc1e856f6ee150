"""Paths on the command line: a URL is rejected, and shown as it was typed."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from clipfeat.base.errors import UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.cli.options import LocalPath
from clipfeat.featstore import FeatureStore, StoreError

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
        ("store", "info", URL),
        ("train", "vqa", "--store", URL, "--data", "d", "--out", "o"),
        ("eval", "vqa", "run", "--store", URL),
        ("predict", "vqa", "run", "--store", URL, "--image-id", "a", "--question", "b"),
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


def test_a_store_at_a_url_is_not_there_yet():
    with pytest.raises(StoreError, match=f"^{URL}: stores are not read") as refused:
        FeatureStore.open(URL)
    assert refused.value.code == "E-STORE-URL"
