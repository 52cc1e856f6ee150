"""Packages that are not there."""

import importlib
import sys

import pytest

from clipfeat.base.errors import UsageError, needs_extra


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("not_on_earth", "this command needs not_on_earth, which is not installed; type: pip inst"),
        ("xml.not_there", r"needs xml.not_there, which is not installed; .* 'clipfeat\[train\]'$"),
        ("broken", r"needs broken, which does not load \(libmissing.so: cannot open\); type: pip"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_named(
    module: str, message: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "raise ImportError('libmissing.so: cannot open', name='broken')\n"
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=message), needs_extra("train"):
        importlib.import_module(module)


def test_pillow_is_named_as_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with (
        pytest.raises(UsageError, match="needs Pillow, which is not installed"),
        needs_extra("demo"),
    ):
        importlib.import_module("PIL")
