"""What takes long the first time is done before a test, of which some have a time limit."""

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

pa.array([0])  # imports pandas, where it is installed

MEMORY = Path("/dev/shm")


@pytest.fixture
def in_memory(tmp_path_factory):
    """A folder in memory, where the system has one: fsync takes no time there."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("folder")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)
