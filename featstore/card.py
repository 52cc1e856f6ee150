"""What a store is, for people and for scripts."""

from typing import Any

from .format import Status
from .store import FeatureStore

MAX_REASONS = 5


def describe(store: FeatureStore) -> dict[str, Any]:
    """Return the store's own card with its path, sizes in bytes and the first refused ids."""
    refused = [
        {"image_id": row.image_id, "status": row.status, "reason": row.reason}
        for row in store.index
        if row.status != Status.OK
    ]
    return {
        "path": str(store.path),
        **store.card,
        "records": len(store),
        "bytes": sum(shard.bytes for shard in store.shards),
        "refused": refused[:MAX_REASONS],
    }


def card_text(card: dict[str, Any]) -> str:
    """Return the card as lines that a person reads."""
    identity = card["identity"]
    backbone, recipe = identity["backbone"], identity["recipe"]
    counts = ", ".join(f"{n} {status}" for status, n in card["counts"].items() if n)
    shapes = ", ".join(f"{n} of {shape}" for shape, n in card["grid_shapes"].items())
    pooled = f", pooled {identity['pooled_dim']}" if identity["pooled_dim"] else ""
    rows = [
        ("store", card["path"]),
        ("backbone", ", ".join(f"{key} {value}" for key, value in backbone.items())),
        ("recipe", ", ".join(f"{key} {value}" for key, value in recipe.items())),
        ("images", counts),
        ("grids", f"{shapes}, dim {identity['dim']}{pooled}"),
        ("numbers", f"{identity['precision']} forward, {identity['dtype']} on disk"),
        ("codec", identity["codec"]),
        ("size", f"{card['bytes'] / 1e6:,.1f} MB in shards of {card['shard_records']} records"),
        ("made", f"{card['created']} by clipfeat {card['clipfeat']}"),
        ("digest", card["digest"]),
    ]
    rows += [("refused", "{image_id}: {status}, {reason}".format(**r)) for r in card["refused"]]
    return "\n".join(f"{name:<9} {value}" for name, value in rows)
