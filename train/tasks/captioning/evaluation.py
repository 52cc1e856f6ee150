"""Score a trained captioner on a split, and any captions beside a store's images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ....base.errors import ClipfeatError, UsageError, needs_extra
from ....base.files import require_file
from ....base.text import counted, is_unicode
from ....featstore import FeatureStore
from ...checkpoint import EvalRequest
from ...data.caption_files import Captions, References, read_results, write_results
from ...data.captions import CaptionSplit, read_captions
from ...data.ids import any_candidates, require_different, require_images
from ...devices import accelerator_of_trained, inference_errors
from ...metrics import cider_label, cider_remark
from ...metrics.clipscore import clip_metrics
from ...records import RecordReader
from ...task import format_unscored
from ..settings import CaptionSettings
from .examples import EvalSplit, encode
from .model import TrainedCaptioner, find_stage, load_stage, require_store, write_captions
from .page import write_page

# What stands before each caption and reference: Hessel et al. 2021, CLIPScore, section 3.
PROMPT = "A photo depicts "

# Texts to their vectors, in the space of a store's pooled ones.
Embed = Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]


def clip_scores(
    store: FeatureStore,
    images: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    embed: Embed,
    *,
    skipped: int = 0,
) -> dict[str, float]:
    """Return CLIPScore, RefCLIPScore and retrieval of one caption for each of a store's images.

    `skipped` images of the split have no features. Raises ClipfeatError for invalid text and
    for embeddings that are not finite.
    """
    prompted = [PROMPT + text for text in captions]
    prompted_references = [[PROMPT + text for text in of_image] for of_image in references]
    # Each text once: those that two images share are then the same to the last bit.
    distinct = list(dict.fromkeys([*prompted, *chain.from_iterable(prompted_references)]))
    broken = next((text for text in distinct if not is_unicode(text)), None)
    if broken is not None:
        raise ClipfeatError(
            f"a caption contains half of a surrogate pair, which is not text: {broken!r:.80}; correct it",
            code="E-CAPTIONS-UNICODE",
        )
    pooled = store.pooled(images)
    finite = np.isfinite(pooled).all(axis=1)
    if not finite.all():
        bad = images[int(np.argmin(finite))]
        raise ClipfeatError(
            f"{store.location}: the embedding of {bad!r:.60} is not finite; extract it again",
            code="E-FEATURES-FINITE",
        )
    vectors = embed(distinct)
    row = {text: number for number, text in enumerate(distinct)}
    return clip_metrics(
        pooled.astype(np.float32),
        vectors[[row[text] for text in prompted]],
        [vectors[[row[text] for text in of_image]] for of_image in prompted_references],
        skipped=skipped,
    )


def score_results(
    store: FeatureStore, results: Captions, references: References, embed: Embed
) -> dict[str, float]:
    """Return the scores of `clip_scores` for a file of captions, of images that go by their ids.

    Raises ClipfeatError, as that does, and for images that the store does not have.
    """
    names = [any_candidates(image) for image in results]
    images = require_images(names, store, texts="captions of the results are")
    require_different(list(results), images, of="the results")
    of_images = [references[image] for image in results]
    return clip_scores(store, images, list(results.values()), of_images, embed)


MEDIAN_RANKS = ("image_median_rank", "text_median_rank")
LIBRARY = "BLEU, METEOR, ROUGE-L, CIDEr and SPICE"


def eval_caption(
    run: Path,
    request: EvalRequest,
    *,
    beam: int | None,
    page: bool = False,
    images: Path | None = None,
    embedder: Callable[[FeatureStore], Embed] | None = None,
) -> dict[str, Any]:
    """Caption a split with a run's best model, write the captions into the run, score them.

    `run` is the folder of both stages, of which the last one that has a model counts, or that of
    one. `beam` is by default that of the run. With `page` there are examples in `run`, with the
    image files of the folder `images`. `embedder` gives what embeds texts for a store, for
    CLIPScore and retrieval. Raises UsageError for a store with other features than the run's.
    """
    if images is not None and not page:
        raise UsageError("--images requires --page, the page of examples", code="E-OPTION-EXCLUDES")
    if images is not None and not images.is_dir():
        raise UsageError(
            f"--images {images} is not a folder; pass the folder of the image files",
            code="E-OPTION-FOLDER",
        )
    trained, store, data = request.open(load_stage(find_stage(run)))
    require_file(path := run / f"predictions_{request.split}.json", "predictions")
    if beam is not None:
        trained = with_beams(trained, beam)
    settings = trained.settings
    accelerator = accelerator_of_trained(request.device, settings)
    require_store(trained, store)
    embed = None if embedder is None else embedder(store)
    split = read_captions(settings.dataset, data, request.split, training=False)
    examples = encode(
        split,
        trained.vocabulary,
        store,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    eval_split = EvalSplit(split, examples)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    reader = RecordReader(store, accelerator.device)
    with inference_errors(settings.precision):
        captions = eval_split.complete(
            write_captions(model, reader, examples, trained.vocabulary, settings, accelerator)
        )
    result = score_captions(
        eval_split, captions, path, settings, stage=trained.folder.name, epoch=trained.epoch
    )
    result |= library_scores(path, split)
    if embed is not None:
        result |= clip_scores_of(eval_split, captions, store, embed)
    if page:
        result["page"] = str(write_page(run, trained, eval_split, captions, store, images))
    return result


def with_beams(trained: TrainedCaptioner, beams: int) -> TrainedCaptioner:
    """Return the model with another number of beams, in place of words that are drawn."""
    decoding = dataclasses.replace(trained.settings.decoding, beams=beams, nucleus=0.0)
    settings = dataclasses.replace(trained.settings, decoding=decoding)
    return dataclasses.replace(trained, settings=settings)


def score_captions(
    eval_split: EvalSplit,
    captions: Mapping[int | str, str],
    path: Path,
    settings: CaptionSettings,
    *,
    stage: str,
    epoch: int,
) -> dict[str, Any]:
    """Write the caption of every image of a split to `path`; return how good they are."""
    write_results(path, captions)
    return {
        "split": eval_split.split.name,
        "stage": stage,
        "epoch": epoch,
        "blind": settings.blind,
        "beams": settings.decoding.beams,
        "n": len(captions),
        "cider_d": eval_split.score(captions),
        "skipped": len(captions) - len(eval_split.examples.ids),
        "predictions": str(path),
        **cider_remark(len(captions)),
    }


def clip_scores_of(
    eval_split: EvalSplit, captions: Mapping[int | str, str], store: FeatureStore, embed: Embed
) -> dict[str, float]:
    """Return CLIPScore and retrieval of captions by image id, over all images of the split."""
    references = {image.image_id: image.references for image in eval_split.split.images}
    examples = eval_split.examples
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
            from ...metrics.captions import score
    except UsageError as error:
        return {"left_out": {LIBRARY: str(error)}}
    references = {str(image.image_id): image.references for image in split.images}
    try:
        return score(read_results(predictions), references)
    except UsageError as error:  # no java
        return {"left_out": {LIBRARY: str(error)}}


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if text := format_unscored(result):
        return text
    given = ("split", "stage", "epoch", "blind", "beams", "n", "cider_d", "skipped")
    names = {"CIDEr": cider_label("CIDEr, times 100", result["n"])}
    other = {*given, *MEDIAN_RANKS, "predictions", "page", "left_out", "remark"}
    lines = [
        f"split {result['split']}: {counted(result['n'], 'image')}, stage {result['stage']}, "
        f"epoch {result['epoch']}, beams {result['beams']}",
        f"{result['cider_d']:7.2f}  {cider_label('CIDEr-D, times 100', result['n'])}",
        *(
            f"{100 * value:7.2f}  {names.get(name, f'{name}, times 100')}"
            for name, value in result.items()
            if name not in other
        ),
        *(f"{result[name]:7.1f}  {name}" for name in MEDIAN_RANKS if name in result),
    ]
    left_out = result.get("left_out", {})
    lines += [f"left out: {name}: {why}" for name, why in left_out.items()]
    if result["skipped"]:
        lines.append(
            f"scored with an empty caption: {counted(result['skipped'], 'image')} without features"
        )
    return "\n".join(
        [*lines, result["predictions"], *([result["page"]] if "page" in result else [])]
    )
