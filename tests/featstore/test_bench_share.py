"""The benchmark of sharing, at a tiny size."""

from pathlib import Path

import pytest

from benchmarks.share.made import Setting
from benchmarks.share.reading import opening


def test_a_store_is_opened_over_a_slow_link(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLIPFEAT_CACHE", "CLIPFEAT_CACHE_GB"):
        monkeypatch.setenv(name, "1")  # the benchmark sets it; this restores it
    sizes = {"bytes": 1e6, "images": 1, "records": 1, "ids": 1500, "rounds": 1}
    opening(Setting(tmp_path, **sizes, rate=1e8, latency=0.001, demo=tmp_path))
    printed = capfd.readouterr().out
    assert printed.startswith("open: 1,500 ids, 1 ms for each request\n")
    assert "opened" in printed
    assert "one id looked up" in printed
    assert not (tmp_path / "cache").exists()
