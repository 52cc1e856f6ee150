"""What several tests of extraction start with."""

import pytest
from command_lines import CommandLines


@pytest.fixture(scope="module")
def clipfeat(tmp_path_factory):
    with CommandLines(tmp_path_factory.mktemp("output")) as lines:
        yield lines
