"""Caption any images of a store: by beams, by beams that differ, or by chance."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator

from ....base.errors import UsageError
from ....base.files import require_file
from ....base.text import printable
from ....featstore import FeatureStore
from ...data.caption_files import write_results
from ...data.captions import ListedImage, read_image_list
from ...data.ids import require_different, require_images
from ...devices import accelerator_of_trained, inference_errors
from ...engine import each_batch, eval_batch_size
from ...models.captioner import Captioner
from ...records import RecordReader
from ...task import on_device
from ..settings import DecodingSettings
from .examples import fetch_images, read_images
from .model import Decode, TrainedCaptioner, decoder, find_stage, load_stage, require_store


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """How many captions an image gets, and how they are written; None is the run's own value."""

    captions: int = 1  # of an image at most: different ones, the best first, or as they were drawn
    beam: int | None = None
    groups: int | None = None  # of beams, which differ by `diversity`
    diversity: float | None = None
    no_repeat: int | None = None
    nucleus: float | None = None  # where given, captions are drawn
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        drawn = self.nucleus is not None
        if drawn and (self.beam or (self.groups or 1) > 1 or self.diversity is not None):
            raise UsageError(
                "--nucleus draws captions without beams; remove --beam, --groups and --diversity",
                code="E-OPTION-EXCLUDES",
            )
        if not drawn and (self.temperature is not None or self.seed is not None):
            raise UsageError(
                "--temperature and --seed require --nucleus; pass --nucleus 1 too",
                code="E-OPTION-EXCLUDES",
            )
        if self.groups in (None, 1) and self.diversity is not None:
            raise UsageError(
                "--diversity requires --groups, since it is between groups of beams",
                code="E-OPTION-EXCLUDES",
            )
        if self.beam is not None and self.captions > self.beam:
            raise UsageError(
                f"--captions {self.captions} requires as many beams; got --beam {self.beam}",
                code="E-OPTION-RANGE",
            )


class Captioned(NamedTuple):
    """An image, its captions, and how likely each is."""

    image_id: int | str
    captions: tuple[str, ...]
    log_probabilities: tuple[float, ...]


def predict_captions(
    run: Path,
    image_ids: Sequence[str],
    request: CaptionRequest,
    *,
    listed: Path | None,
    out: Path | None,
    store: str | Path | None,
    device: str | None,
) -> list[Captioned]:
    """Caption images of a store with a run's best model; references are not needed.

    The images are `image_ids`, ids of the store, or those of `listed`, a file in COCO's format.
    `out` is the file for the first caption of each, in the format of COCO's server. Raises
    UsageError before any work for a wrong request, ClipfeatError for images without features.
    """
    if (listed is None) == (not image_ids):
        raise UsageError(
            "pass either ids of images, or --list with the file that lists them",
            code="E-OPTION-EXCLUDES",
        )
    twice = next((image for image in image_ids if image_ids.count(image) > 1), None)
    if twice is not None:
        raise UsageError(f"image {twice!r:.60} is given twice; remove one", code="E-IMAGES-TWICE")
    if out is not None:
        require_file(out, "--out")
    images = (
        [ListedImage(i, (i,)) for i in image_ids] if listed is None else read_image_list(listed)
    )
    trained = load_stage(find_stage(run))
    accelerator = accelerator_of_trained(device, trained.settings)
    decoding = requested(trained.settings.decoding, request)
    decode = decoder(
        decoding, captions=request.captions, seed=request.seed or 0, device=accelerator.device
    )
    each = request.captions if decoding.nucleus else decoding.beams
    features = FeatureStore.open(store or trained.manifest.store)
    require_store(trained, features)
    candidates = [image.candidates for image in images]
    stored = require_images(candidates, features, texts="captions asked for are")
    of = str(listed) if listed is not None else "IMAGE_ID"
    require_different([image.image_id for image in images], stored, of=of)
    reader = RecordReader(features, accelerator.device)
    with inference_errors(trained.settings.precision):
        written = _caption(trained, reader, stored, decode, each, accelerator)
    if not decoding.nucleus:
        written = [_distinct(captions) for captions in written]
    captioned = [
        Captioned(image.image_id, *zip(*captions[: request.captions], strict=True))
        for image, captions in zip(images, written, strict=True)
    ]
    if out is not None:
        write_results(out, {image.image_id: image.captions[0] for image in captioned})
    return captioned


def requested(settings: DecodingSettings, request: CaptionRequest) -> DecodingSettings:
    """Return a run's settings with what a request changes; UsageError for a value out of range."""
    given = {
        "groups": request.groups,
        "diversity": request.diversity,
        "no_repeat": request.no_repeat,
        "nucleus": request.nucleus,
        "temperature": request.temperature,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if request.nucleus is not None:
        changes |= {"beams": 1, "groups": 1}
    elif request.beam is not None or request.groups is not None:
        changes["nucleus"] = 0.0
    if not changes.get("nucleus", settings.nucleus):
        changes["beams"] = request.beam or max(settings.beams, request.captions)
    return dataclasses.replace(settings, **changes)


@torch.no_grad()
def _caption(
    trained: TrainedCaptioner,
    reader: RecordReader,
    stored: list[str],
    decode: Decode,
    each: int,
    accelerator: Accelerator,
) -> list[list[tuple[str, float]]]:
    """Return the captions of each image with their log-probabilities."""
    prepared = accelerator.prepare_model(trained.model, evaluation_mode=True)
    model = cast(Captioner, prepared.eval())
    size = math.ceil(eval_batch_size(trained.settings) / each)
    order, read = np.arange(len(stored)), functools.partial(read_images, reader, stored)
    written: list[list[tuple[str, float]]] = []
    fetch = functools.partial(fetch_images, reader, stored)
    for _, batch in each_batch(
        order, read, accelerator, size=size, doing="captioning", fetch=fetch
    ):
        with accelerator.autocast():
            captions = decode(model, model.encode(batch.records))
        for rows, totals in zip(captions.tokens.tolist(), captions.totals.tolist(), strict=True):
            # A beam that was never in use has no caption.
            kept = [pair for pair in zip(rows, totals, strict=True) if pair[1] > -math.inf]
            written.append([(trained.vocabulary.decode(row), total) for row, total in kept])
    return written


@torch.no_grad()
def best_caption(trained: TrainedCaptioner, store: FeatureStore, image_id: str) -> str:
    """Return the caption of one image by a run's own decoding, on the model's device, in float32.

    Raises UsageError where the store has other features than the run's, StoreError for an image
    without features.
    """
    require_store(trained, store)
    model, settings = trained.model.eval(), trained.settings
    device = next(model.parameters()).device
    records = on_device(RecordReader(store, device).read([image_id]), device)
    decode = decoder(settings.decoding, captions=1, seed=settings.seed, device=device)
    (row,) = decode(model, model.encode(records)).tokens[:, 0].tolist()
    return trained.vocabulary.decode(row)


def _distinct(captions: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the captions, each text once: several groups of beams may write the same one."""
    first: dict[str, float] = {}
    for caption, total in captions:
        first.setdefault(caption, total)
    return list(first.items())


def format_captions(captioned: Sequence[Captioned]) -> str:
    """Return a line for each caption: image, log-probability, caption, with tabs between."""
    return "\n".join(
        f"{printable(str(image.image_id))}\t{total:.2f}\t{printable(caption)}"
        for image in captioned
        for caption, total in zip(image.captions, image.log_probabilities, strict=True)
    )
