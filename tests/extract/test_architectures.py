"""Every architecture that open_clip lists gives the grids that docs/backbones.md says."""

from pathlib import Path

import open_clip
import pytest

from benchmarks.backbones import HEADER, table

PAGE = Path(__file__).parents[2] / "docs/backbones.md"


@pytest.mark.slow
def test_the_page_says_what_every_tower_gives(monkeypatch):
    # Half of the time goes to random numbers for weights that have no memory.
    monkeypatch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor)
    found = table().splitlines()
    page = PAGE.read_text(encoding="utf-8").splitlines()
    start = page.index(HEADER.splitlines()[0])
    assert page[start:] == found
    names = [name for line in found[2:] for name in line.split(" | ")[0][2:].split(", ")]
    assert sorted(names) == sorted(open_clip.list_models())
