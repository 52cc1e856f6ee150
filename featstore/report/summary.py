"""What a store is, for people, for scripts and for the paper that cites it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ...base.parquet import rows_of
from ...base.text import printable
from ..format import GridShape, Identity, Status
from ..store import FeatureStore

MAX_REFUSED = 5  # examples of ids without a record
NPY_HEADER_BYTES = 128  # of a .npy file of a grid or a vector


def describe(store: FeatureStore) -> dict[str, Any]:
    """Return the store's own card with its path, sizes, first refused ids and citation.

    `bytes` are those of the shards, `float32_bytes` what the same records would take as
    float32 .npy files, a file a grid and a file a pooled vector, uncompressed. Reads the index
    once and holds none of it.
    """
    refused = []
    shapes: Counter[str] = Counter()
    for batch in store.index_batches("image_id", "status", "reason", "shape"):
        for image_id, status, reason, shape in rows_of(batch):
            if status == Status.OK:
                shapes[shape] += 1
            elif len(refused) < MAX_REFUSED:
                refused.append({"image_id": image_id, "status": status, "reason": reason})
    return {
        "path": str(store.path),
        **store.card,
        "records": len(store),
        "records_by_shape": {str(s): shapes[str(s)] for s in store.grid_shapes if shapes[str(s)]},
        "bytes": sum(shard.bytes for shard in store.shards),
        "float32_bytes": _npy_bytes(shapes, store.identity),
        "refused": refused,
        "cite": _cite(store),
    }


def _npy_bytes(shapes: Mapping[str, int], identity: Identity) -> int:
    """Return the bytes of float32 .npy files of so many records of each grid shape."""
    total = 0
    for shape, records in shapes.items():
        total += records * (NPY_HEADER_BYTES + 4 * GridShape.parse(shape).cells * identity.dim)
        if identity.pooled_dim:
            total += records * (NPY_HEADER_BYTES + 4 * identity.pooled_dim)
    return total


def _cite(store: FeatureStore) -> str:
    """Return the line that a paper needs so that others can tell whether they have this store."""
    backbone, recipe = store.identity.backbone, store.identity.recipe
    facts = (
        str(backbone.get("model", "unnamed model")),
        f"pretrained: {backbone.get('pretrained', 'not recorded')}",
        f"recipe: {recipe.get('name', 'not recorded')}",
        _number(len(store), "record"),
        f"clipfeat {store.card['clipfeat']}",
        f"sha256:{store.digest}",
    )
    return printable(f"{store.path.resolve().name} ({', '.join(facts)})")


def card_text(card: Mapping[str, Any]) -> str:
    """Return what `describe` gave as lines that a person reads."""
    head = f"{card['path']} is {_sentence(card)}"
    lines = [f"{name:<8}  {printable(value)}" for name, value in _rows(card)]
    return "\n".join([printable(head), "", *lines])


def _sentence(card: Mapping[str, Any]) -> str:
    """Return what the store is: the sentence that begins with its path."""
    dim, shapes = card["identity"]["dim"], list(map(GridShape.parse, card["records_by_shape"]))
    cells = f"{len(shapes)} grid shapes"
    if len(shapes) == 1:
        cells = f"{shapes[0].rows} x {shapes[0].cols} cells"
    return f"a store of CLIP grid features: {cells} of {dim} channels for " + _number(
        card["records"], "image"
    )


def _rows(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of each line of the card."""
    identity = card["identity"]
    backbone, recipe = identity["backbone"], identity["recipe"]
    yield "model", str(backbone.get("model", "not recorded"))
    yield "weights", _listed(backbone, but="model")
    yield "recipe", _recipe_text(recipe)
    yield "ids", ", ".join(f"{n:,} {status}" for status, n in card["counts"].items() if n)
    yield from _refused(card)
    shapes = card["records_by_shape"]
    if len(shapes) > 1:
        yield "grids", ", ".join(f"{n:,} of {shape}" for shape, n in shapes.items())
    if identity["pooled_dim"]:
        yield "pooled", f"a vector of {identity['pooled_dim']} channels for each image as well"
    yield "numbers", f"computed in {identity['precision']}, kept in {identity['dtype']}"
    npy = _size(card["float32_bytes"])
    yield "size", f"{_size(card['bytes'])} on disk; as float32 .npy files it would be {npy}"
    records = _number(card["shard_records"], "record")
    yield "shards", f"of up to {records}, codec {identity['codec']}"
    yield from _origin(card)


def _origin(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines on where the store comes from, and how to name it."""
    yield "made", f"{card['created']} by clipfeat {card['clipfeat']}"
    if card["libraries"]:
        yield "with", _listed(card["libraries"])
    for parent in card["parents"]:
        yield "parent", f"sha256:{parent}"
    for key in ("licence", "note"):
        if card.get(key):
            yield key, str(card[key])
    yield "digest", card["digest"]
    yield "cite as", card["cite"]


def _refused(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a line for each example of an id without a record, and where to find the rest."""
    for row in card["refused"]:
        yield "", "{image_id}: {status}, {reason}".format(**row)
    more = sum(card["counts"].values()) - card["records"] - len(card["refused"])
    if more:
        statuses = ",".join(s for s, n in card["counts"].items() if n and s != Status.OK)
        yield "", f"{more:,} more: clipfeat store ls {card['path']} --status {statuses}"


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a recipe on a line: "square:448, steps stretch (height 448, width 448) > rgb"."""
    values = {str(recipe.get("name", "not recorded")): "", **recipe}
    steps = recipe.get("steps")
    if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
        texts = (f"{s.get('step')} ({_listed(s, but='step')})" for s in steps)
        values["steps"] = " > ".join(texts).replace(" (not recorded)", "")
    return _listed(values, but="name")


def _listed(values: Mapping[str, Any], but: str = "") -> str:
    """Return "key value, key value" of what is given."""
    given = {key: value for key, value in values.items() if key != but and value is not None}
    return ", ".join(f"{key} {value}".strip() for key, value in given.items()) or "not recorded"


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit that it fills.

    >>> _size(49_100_000_000)
    '49.1 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"
