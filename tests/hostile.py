"""Change a store and make its own hashes fit again, as a forger would."""

import hashlib
import json
from pathlib import Path
from typing import Any


def reseal(store: Path, **changes: Any) -> None:
    """Change keys of store.json and give it the hashes of its tables and its own checksum."""
    path = store / "store.json"
    card = {**json.loads(path.read_text()), **changes}
    for table, name in (("index", "index.parquet"), ("shards", "shards.parquet"),
                        ("lookup", "lookup.bin")):  # fmt: skip
        if "tables" not in changes:
            card["tables"][table] = hashlib.sha256((store / name).read_bytes()).hexdigest()
    del card["checksum"]
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    card["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(card, indent=2))
