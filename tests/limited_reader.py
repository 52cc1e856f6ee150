"""Open, verify and read stores with little memory to spare; print the results as JSON.

Run as a process of its own: limited_reader.py STORE...
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify

# Bytes that a hostile store may cost above what the imports take: fewer than the gigabyte of
# addresses that pyarrow's allocator reserves where it can, which would leave nothing.
SPARE = 1000 << 20


def main(paths: list[Path]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))
    results = {}
    for path in paths:
        results[path.name] = {
            "verify": outcome(lambda path=path: [p.text() for p in verify(path, Depth.DEEP)]),
            "read": outcome(lambda path=path: [read_all(path)]),
        }
    print(json.dumps(results))


def read_all(path: Path) -> str:
    """Read all records of the index, one at a time."""
    store = FeatureStore.open(path)
    for image_id in store.ids:
        store.read([image_id])
    assert all(shard.bytes >= 0 for shard in store.shards)
    return "read it all"


def outcome(call: Callable[[], list[str]]) -> list[str]:
    """Return the result of a call, or the StoreError that it raised, shortened."""
    try:
        return [text[:400] for text in call()]
    except StoreError as error:
        return [f"{error.code}: {error!s:.400}"]


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
