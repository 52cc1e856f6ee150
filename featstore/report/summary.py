"""What a store is: for people, for scripts and for the paper that cites it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.parquet import rows_of
from ...base.text import counted, printable, size_text
from ..geometry import GridShape
from ..identity import IMPORTED, Identity
from ..lookup import Status
from ..metadata import Loss, StoreMetadata
from ..store import FeatureStore

MAX_EXAMPLES = 5  # of ids without a record
NPY_HEADER_BYTES = 128  # of a .npy file of a grid or a vector


@dataclass(frozen=True)
class StoreSummary:
    """The metadata of a store with its sizes, examples of ids without a record, and a citation."""

    path: str  # or URL
    metadata: StoreMetadata
    records: int
    records_by_shape: dict[str, int]
    bytes: int  # of the shards
    float32_bytes: int  # of the same records in uncompressed .npy files, one for each array
    without_record: list[dict[str, str]]  # image_id, status, reason of the first few
    cite: str

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts."""
        return {
            "path": self.path,
            **self.metadata.to_json(),
            "records": self.records,
            "records_by_shape": self.records_by_shape,
            "bytes": self.bytes,
            "float32_bytes": self.float32_bytes,
            "refused": self.without_record,
            "cite": self.cite,
        }


def summarize_store(store: FeatureStore) -> StoreSummary:
    """Return what a store is. Reads the index once and keeps none of it in memory."""
    without_record: list[dict[str, str]] = []
    shapes: Counter[str] = Counter()
    for batch in store.index_batches("image_id", "status", "reason", "shape"):
        for image_id, status, reason, shape in rows_of(batch):
            if status == Status.OK:
                shapes[shape] += 1
            elif len(without_record) < MAX_EXAMPLES:
                without_record.append({"image_id": image_id, "status": status, "reason": reason})
    return StoreSummary(
        path=store.location,
        metadata=store.metadata,
        records=len(store),
        records_by_shape={s: shapes[s] for s in store.metadata.grid_shapes if shapes[s]},
        bytes=sum(shard.bytes for shard in store.shards),
        float32_bytes=_npy_bytes(shapes, store.identity),
        without_record=without_record,
        cite=_cite(store),
    )


def _npy_bytes(shapes: Mapping[str, int], identity: Identity) -> int:
    """Return the bytes of float32 .npy files of {grid shape: number of records}."""
    total = 0
    for shape, records in shapes.items():
        total += records * (NPY_HEADER_BYTES + 4 * GridShape.parse(shape).cells * identity.dim)
        if identity.pooled_dim:
            total += records * (NPY_HEADER_BYTES + 4 * identity.pooled_dim)
    return total


def _cite(store: FeatureStore) -> str:
    """Return the line with which a paper lets others tell whether they have this store."""
    backbone, recipe = store.identity.backbone, store.identity.recipe
    weights = f"pretrained: {backbone.get('pretrained', 'not recorded')}"
    if backbone.get("model") == IMPORTED:
        weights = f"from {backbone.get('format', 'a format that is not recorded')}"
    facts = (
        str(backbone.get("model", "unnamed model")),
        weights,
        f"recipe: {recipe.get('name', 'not recorded')}",
        counted(len(store), "record"),
        f"clipfeat {store.metadata.clipfeat}",
        f"sha256:{store.digest}",
    )
    name = Path(store.location).resolve().name  # of a URL its last part
    return printable(f"{name} ({', '.join(facts)})")


def summary_text(summary: StoreSummary) -> str:
    """Return a summary as lines that a person reads."""
    what = sentence(summary.records_by_shape, summary.metadata.identity.dim, summary.records)
    head = f"{summary.path} is {what}"
    rows = list(summary_rows(summary))
    width = max(8, *(len(name) for name, _ in rows))
    lines = [f"{name:<{width}}  {printable(value)}" for name, value in rows]
    return "\n".join([printable(head), "", *lines])


def sentence(grid_shapes: Collection[str], dim: int, records: int) -> str:
    """Return what a store is: the sentence that begins with its path.

    >>> sentence(["14x14"], 2560, 3)
    'a store of grid features: 14 x 14 cells of 2560 channels for 3 images'
    """
    cells = f"{len(grid_shapes)} grid shapes"
    if len(grid_shapes) == 1:
        rows, cols = GridShape.parse(next(iter(grid_shapes)))
        cells = f"{rows} x {cols} cells"
    return f"a store of grid features: {cells} of {dim} channels for {counted(records, 'image')}"


def summary_rows(summary: StoreSummary) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of each line."""
    metadata = summary.metadata
    identity = metadata.identity
    yield "model", str(identity.backbone.get("model", "not recorded"))
    yield "weights", _listed(identity.backbone, but="model")
    yield "recipe", _recipe_text(identity.recipe)
    yield "ids", ", ".join(f"{n:,} {status}" for status, n in metadata.counts.items() if n)
    yield from _without_record(summary)
    shapes = summary.records_by_shape
    if len(shapes) > 1:
        yield "grids", ", ".join(f"{n:,} of {shape}" for shape, n in shapes.items())
    if identity.pooled_dim:
        yield "pooled", f"a vector of {identity.pooled_dim} channels for each image as well"
    if identity.regions:
        yield "regions", f"each cell is a region, with {', '.join(identity.regions)}"
    bits = f", {identity.mantissa_bits} bits of the mantissa" if identity.mantissa_bits else ""
    yield "numbers", f"computed in {identity.precision}, kept in {identity.dtype}{bits}"
    npy = size_text(summary.float32_bytes)
    yield "size", f"{size_text(summary.bytes)} on disk; as float32 .npy files it would be {npy}"
    records = counted(metadata.shard_records, "record")
    order = identity.order.replace("_", " ")
    yield "shards", f"of up to {records}, codec {identity.codec}, {order}"
    yield "made", f"{metadata.created} by clipfeat {metadata.clipfeat}"
    if metadata.libraries:
        yield "with", _listed(metadata.libraries)
    origin = identity.derived_from
    if origin is not None:
        yield "from", f"sha256:{origin.digest}, by {origin.operation} ({_listed(origin.settings)})"
    if metadata.loss is not None:
        yield "loss", _loss_text(metadata.loss)
    for parent in metadata.parents:
        yield "parent", f"sha256:{parent}"
    yield from metadata.about.texts().items()
    yield "digest", metadata.digest
    yield "cite as", summary.cite


def _loss_text(loss: Loss) -> str:
    return (
        f"cosine distance of a cell {loss.cosine_distance:.2g} on average, relative L2 distance "
        f"{loss.relative_l2:.2g}, largest difference {loss.largest:.3g}"
    )


def _without_record(summary: StoreSummary) -> Iterator[tuple[str, str]]:
    """Yield a line for each example of an id without a record, and where to find the rest."""
    for row in summary.without_record:
        yield "", "{image_id}: {status}, {reason}".format(**row)
    metadata = summary.metadata
    more = metadata.id_count - summary.records - len(summary.without_record)
    if more:
        statuses = ",".join(s for s, n in metadata.counts.items() if n and s != Status.OK)
        yield "", f"{more:,} more: clipfeat store ls {summary.path} --status {statuses}"


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a recipe on a line: "square:448, steps stretch (height 448, width 448) > rgb".

    That of pooled grids contains the recipe of the grids that they are the means of.
    """
    inner = recipe.get("recipe")
    if isinstance(inner, Mapping):
        return f"{recipe.get('name', 'not recorded')}; before: {_recipe_text(inner)}"
    values = {str(recipe.get("name", "not recorded")): "", **recipe}
    steps = recipe.get("steps")
    if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
        texts = (f"{s.get('step')} ({_listed(s, but='step')})" for s in steps)
        values["steps"] = " > ".join(texts).replace(" (not recorded)", "")
    return _listed(values, but="name")


def _listed(values: Mapping[str, Any], but: str = "") -> str:
    """Return "key value, key value" of the values that are not None."""
    given = {key: value for key, value in values.items() if key != but and value is not None}
    return ", ".join(f"{key} {value}".strip() for key, value in given.items()) or "not recorded"
