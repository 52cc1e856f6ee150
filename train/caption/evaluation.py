"""Score a trained captioner on a split, from the file of its captions."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ...base.errors import UsageError, needs_extra
from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..loop.devices import accelerator_of_trained, inference_errors
from ..loop.run import require_features
from .asked import Asked
from .clip import Embed, clip_scores
from .data.examples import encode
from .data.read import read_split
from .data.split import CaptionSplit
from .metrics import cider_label, cider_remark
from .metrics.results import read_results, write_results
from .page import write_page
from .trained import TrainedCaptioner, find_stage, load_stage
from .write import write_captions

MEDIAN_RANKS = ("image_median_rank", "text_median_rank")
LIBRARY = "BLEU, METEOR, ROUGE-L, CIDEr and SPICE"


def eval_caption(
    run: Path,
    *,
    split: str,
    beam: int | None,
    store: Path | None,
    data: Path | None,
    device: str | None,
    skip_missing: int | None = None,
    page: bool = False,
    images: Path | None = None,
    embedder: Callable[[FeatureStore], Embed] | None = None,
) -> dict[str, Any]:
    """Caption a split with a run's best model, write the captions into the run, score them.

    `run` is the folder of both stages, of which the last one that has a model counts, or that of
    one. `beam`, `store`, `data` and `skip_missing` are by default those of the run. With `page`
    there are examples in `run`, with the image files of the folder `images`. `embedder` gives
    what embeds texts for a store, for CLIPScore and retrieval. Raises UsageError for a store with
    other features than the run's.
    """
    if images is not None and not page:
        raise UsageError("--images is for the page of examples; pass --page too")
    if images is not None and not images.is_dir():
        raise UsageError(f"--images takes the folder of the image files; {images} is none")
    trained = load_stage(find_stage(run))
    if beam is not None:
        trained = with_beams(trained, beam)
    settings, card = trained.settings, trained.card
    accelerator = accelerator_of_trained(device, settings)
    features = FeatureStore.open(store or Path(card.store))
    require_features(features, card)
    embed = None if embedder is None else embedder(features)
    found = read_split(settings.dataset, data or Path(card.data), split, training=False)
    examples = encode(
        found,
        trained.vocabulary,
        features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing if skip_missing is None else skip_missing,
    )
    asked = Asked(found, examples)
    reader = RecordReader(features, accelerator.device)
    path = run / f"predictions_{split}.json"
    result, captions = caption_split(trained, asked, reader, accelerator, path)
    result |= library_scores(path, found)
    if embed is not None:
        result |= clip_scores_of(asked, captions, features, embed)
    if page:
        result["page"] = str(write_page(run, trained, asked, captions, features, images))
    return result


def with_beams(trained: TrainedCaptioner, beams: int) -> TrainedCaptioner:
    """Return the model with another number of beams."""
    decoding = dataclasses.replace(trained.settings.decoding, beams=beams)
    settings = dataclasses.replace(trained.settings, decoding=decoding)
    return dataclasses.replace(trained, settings=settings)


def caption_split(
    run: TrainedCaptioner,
    asked: Asked,
    reader: RecordReader,
    accelerator: Accelerator,
    path: Path,
) -> tuple[dict[str, Any], dict[int | str, str]]:
    """Caption every image of a split, write the captions as `path`, and score them.

    Returns the result, and the captions by image id. All processes write captions; the first one
    writes the file.
    """
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    with inference_errors(run.settings.precision):
        captions = write_captions(
            model, reader, asked.examples, run.vocabulary, run.settings, accelerator
        )
    captions = asked.complete(captions)
    if accelerator.is_main_process:
        write_results(path, captions)
    result = {
        "split": asked.split.name,
        "stage": run.folder.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        "beams": run.settings.decoding.beams,
        "n": len(captions),
        "cider_d": asked.score(captions),
        "skipped": len(captions) - len(asked.examples.ids),
        "predictions": str(path),
        **cider_remark(len(captions)),
    }
    return result, captions


def clip_scores_of(
    asked: Asked, captions: Mapping[int | str, str], store: FeatureStore, embed: Embed
) -> dict[str, float]:
    """Return CLIPScore and retrieval of captions by image id, over all images of the split."""
    references = {image.image_id: image.references for image in asked.split.images}
    examples = asked.examples
    return clip_scores(
        store,
        examples.image_ids,
        [captions[image_id] for image_id in examples.ids],
        [references[image_id] for image_id in examples.ids],
        embed,
        skipped=len(captions) - len(examples.ids),
    )


def library_scores(predictions: Path, split: CaptionSplit) -> dict[str, Any]:
    """Return the published scores of a file of captions, and under "left_out" why one is missing."""
    try:
        with needs_extra("caption"):
            from .metrics.score import score
    except UsageError as error:
        return {"left_out": {LIBRARY: str(error)}}
    references = {str(image.image_id): image.references for image in split.images}
    try:
        return score(read_results(predictions), references)
    except UsageError as error:  # no java
        return {"left_out": {LIBRARY: str(error)}}


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    given = ("split", "stage", "epoch", "blind", "beams", "n", "cider_d", "skipped")
    names = {"CIDEr": cider_label("CIDEr, times 100", result["n"])}
    told = {*given, *MEDIAN_RANKS, "predictions", "page", "left_out", "remark"}
    lines = [
        f"split {result['split']}: {result['n']} images, stage {result['stage']}, "
        f"epoch {result['epoch']}, beams {result['beams']}",
        f"{result['cider_d']:7.2f}  {cider_label('CIDEr-D, times 100', result['n'])}",
        *(
            f"{100 * value:7.2f}  {names.get(name, f'{name}, times 100')}"
            for name, value in result.items()
            if name not in told
        ),
        *(f"{result[name]:7.1f}  {name}" for name in MEDIAN_RANKS if name in result),
    ]
    left_out = result.get("left_out", {})
    lines += [f"left out: {name}: {why}" for name, why in left_out.items()]
    if result["skipped"]:
        lines.append(f"{result['skipped']} images without features count with an empty caption")
    return "\n".join(
        [*lines, result["predictions"], *([result["page"]] if "page" in result else [])]
    )
