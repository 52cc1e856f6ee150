"""The options that choose ids of a store: a list, a split of a data set, a status."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..base.errors import UsageError
from .options import LocalPath, StatusList, skip_missing, with_options

if TYPE_CHECKING:
    from ..featstore import FeatureStore
    from ..train.data.captions import ListedImage

selection = with_options(
    click.option(
        "--ids",
        type=LocalPath(dir_okay=False, exists=True),
        metavar="FILE",
        help="Only the ids in a text file, one on each line.",
    ),
    click.option(
        "--split",
        "splits",
        multiple=True,
        metavar="KIND:FILE",
        help="Only the images of a file: karpathy:FILE, karpathy:FILE:SPLIT or coco:FILE. "
        "May be repeated.",
    ),
    skip_missing,
    click.option(
        "--status",
        "statuses",
        type=StatusList("ok"),
        default=(),
        metavar="STATUS,...",
        help="Only ids with these statuses, such as ok.",
    ),
)


def write_selection(
    path: str | Path,
    out: Path,
    ids: Path | None,
    splits: Sequence[str],
    skip_missing: int | None,
    statuses: Sequence[str],
) -> "FeatureStore":
    """Write the chosen ids of the store at a path or a URL to `out`, and return the new store.

    Raises UsageError if nothing is chosen, and as `_select_ids` and `subset` do.
    """
    from ..featstore import FeatureStore, subset

    if not (ids or splits or statuses):
        raise UsageError(
            "nothing is chosen; give --ids, --split or --status", code="E-DERIVE-CHOICE"
        )
    source = FeatureStore.open(path)
    chosen = _select_ids(source, ids, splits, skip_missing)
    return subset(source, out, ids=chosen, statuses=statuses)


def _select_ids(
    store: "FeatureStore", ids: Path | None, splits: Sequence[str], skip_missing: int | None
) -> list[str] | None:
    """Return the ids that --ids and --split choose together, None if neither is given.

    Raises UsageError for a split of another form or that its file does not have, ClipfeatError for
    another format, and if more than `skip_missing` images of a split have no record.
    """
    if ids is None and not splits:
        return None
    chosen: list[str] = []
    if ids is not None:
        from ..base.files import text_lines

        chosen += [line for _, line in text_lines(ids) if line]
    for split in splits:
        from ..train.data.ids import find_images

        candidates = [image.candidates for image in _listed_images(split)]
        texts = f"entries of {split} are"
        found = find_images(candidates, store, texts=texts, skip_missing=skip_missing or 0)
        chosen += [image_id for image_id in found if image_id is not None]
    return chosen


def _listed_images(split: str) -> "list[ListedImage]":
    """Return the images that `karpathy:FILE`, `karpathy:FILE:SPLIT` or `coco:FILE` names."""
    from ..train.data.captions import read_image_list, read_karpathy_list

    kind, _, rest = split.partition(":")
    if kind == "coco" and rest:
        return read_image_list(Path(rest))
    if kind == "karpathy" and rest:
        file, colon, name = rest.rpartition(":")
        return read_karpathy_list(Path(file if colon else rest), name.split("+") if colon else ())
    raise UsageError(
        f"--split must read karpathy:FILE, karpathy:FILE:SPLIT or coco:FILE; got {split!r:.80}",
        code="E-SPLIT-OPTION",
    )
