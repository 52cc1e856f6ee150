"""What several tests of extraction start with."""

from functools import lru_cache

import pytest
from command_lines import CommandLines

from clipfeat.extract.backbones import weights


@pytest.fixture(scope="session")
def clipfeat(tmp_path_factory):
    with CommandLines(tmp_path_factory.mktemp("output")) as lines:
        yield lines


@lru_cache
def _random_backbone(spec, device):
    return STOCK_LOAD(spec, device)


STOCK_LOAD = weights.load_backbone


@pytest.fixture(scope="module")
def one_backbone():
    """Load random weights once: they are the same for all extractions of this process."""

    def load(spec, device):
        if spec.pretrained != "none":
            return STOCK_LOAD(spec, device)
        weights.logger.info("Random weights")  # which a run logs first
        return _random_backbone(spec, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load_backbone", load)
        yield
