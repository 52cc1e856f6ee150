"""A page of examples: captions, references, and where the captioner looks for its words."""

from collections.abc import Mapping
from html import escape
from pathlib import Path, PurePath

import numpy as np
import torch
from jaxtyping import Float

from ....base.errors import UsageError
from ....featstore import FeatureStore
from ... import html_page
from ...attention_maps import draw_words, read_image
from ...data.caption_vocabulary import CaptionVocabulary
from ...records import RecordReader
from ...region_maps import RegionMap
from ...task import on_device
from .examples import EvalSplit, pad_rows, read_images
from .model import TrainedCaptioner

SHARPEST = 5  # words of a caption

Words = list[tuple[str, Float[np.ndarray, "row col"]]]


@torch.no_grad()
def attended_words(
    trained: TrainedCaptioner, store: FeatureStore, image_ids: list[str], captions: list[str]
) -> list[Words]:
    """Return the words of each image's caption, with the attention over all cells of its grid.

    Of regions, the grid has one column.
    """
    model = trained.model.eval()
    device = next(model.parameters()).device
    reader = RecordReader(store, device)
    batch = on_device(read_images(reader, image_ids, np.arange(len(image_ids))), device)
    rows = [trained.vocabulary.encode(caption) for caption in captions]
    tokens = torch.from_numpy(pad_rows(rows, max(map(len, rows)))).to(device)
    memory = model.encode(batch.records)
    weights = model.attention(memory, tokens[:, :-1]).cpu().numpy()
    return [
        by_word(trained.vocabulary, row, attention[:, : rows * cols].reshape(-1, rows, cols))
        for row, attention, (rows, cols) in zip(
            tokens.tolist(), weights, store.shapes(image_ids).tolist(), strict=True
        )
    ]


def look(
    trained: TrainedCaptioner,
    eval_split: EvalSplit,
    store: FeatureStore,
    numbers: list[int],
    captions: list[str],
) -> list[Words]:
    """Return the words of each image's caption where attention is sharpest, in their order.

    `numbers` are positions of images in the split, `captions` are what the model wrote of them;
    attention is over the real cells, or of regions over a map of the image.
    """
    image_ids = [eval_split.examples.image_ids[number] for number in numbers]
    sharpest_words = []
    for image_id, words in zip(
        image_ids, attended_words(trained, store, image_ids, captions), strict=True
    ):
        mask = store.mask(image_id)
        real = np.ix_(mask.any(axis=1), mask.any(axis=0))
        sharpest = sorted(range(len(words)), key=lambda n: -words[n][1].max())[:SHARPEST]
        regions = RegionMap.of(store, image_id)
        sharpest_words.append(
            [
                (word, cells[real] if regions is None else regions.attention(cells[:, 0]))
                for word, cells in (words[n] for n in sorted(sharpest))
            ]
        )
    return sharpest_words


def by_word(
    vocabulary: CaptionVocabulary, tokens: list[int], maps: Float[np.ndarray, "step row col"]
) -> Words:
    """Return the words of a caption, each with the mean attention of the parts it was made of."""
    parts: dict[int, list[int]] = {}
    for step in range(len(maps)):
        before = vocabulary.decode(tokens[: step + 1])
        after = vocabulary.decode(tokens[: step + 2])
        if after != before:  # neither the end nor padding
            parts.setdefault(len(after.split()) - 1, []).append(step)
    words = vocabulary.decode(tokens).split()
    return [(word, maps[parts[place]].mean(axis=0)) for place, word in enumerate(words)]


PAGE = "examples.html"
ENDINGS = ("", ".jpg", ".jpeg", ".png")


def write_page(
    run: Path,
    trained: TrainedCaptioner,
    eval_split: EvalSplit,
    captions: Mapping[int | str, str],
    store: FeatureStore,
    folder: Path | None,
) -> Path:
    """Write examples of a split, evenly from the best caption to the worst; return the file.

    Image files of `folder`, where it has them, are drawn into the page, which then needs no
    other file. Raises UsageError where it has none of those that are shown.
    """
    scores = eval_split.score_each(captions)
    position = {image_id: place for place, image_id in enumerate(eval_split.examples.ids)}
    order = np.argsort(-scores, kind="stable").tolist()
    seen = [n for n in order if eval_split.split.images[n].image_id in position]
    chosen = [seen[n] for n in html_page.evenly_spaced(len(seen))]
    images = [eval_split.split.images[n] for n in chosen]
    stored = [eval_split.examples.image_ids[position[image.image_id]] for image in images]
    files = [None if folder is None else _find(folder, image_id) for image_id in stored]
    if folder is not None and not any(files):
        raise UsageError(
            f"--images {folder} has no file of any image shown, such as {stored[0]}.jpg; pass "
            "the folder that the store was extracted from, or leave it out",
            code="E-OPTION-FOLDER",
        )
    words_of_images = look(
        trained,
        eval_split,
        store,
        [position[image.image_id] for image in images],
        [captions[image.image_id] for image in images],
    )
    articles = [
        _article(
            str(image.image_id),
            captions[image.image_id],
            float(scores[number]),
            image.references,
            _picture(words, file),
        )
        for number, image, words, file in zip(chosen, images, words_of_images, files, strict=True)
    ]
    introduction = (
        f"{len(images)} of {len(captions)} images of split {eval_split.split.name}, evenly from the "
        f"best caption to the worst; model of {trained.folder.resolve().name}, epoch "
        f"{trained.epoch}, beams {trained.settings.decoding.beams}. The pictures show the "
        f"{SHARPEST} words for which the model looks most closely at some cells."
    )
    html_page.write_page(run / PAGE, "Captions", introduction, articles)
    return run / PAGE


def _article(
    image_id: str, caption: str, score: float, references: tuple[str, ...], picture: bytes | None
) -> str:
    items = "\n".join(f"<li>{escape(reference)}</li>" for reference in references)
    image = "" if picture is None else html_page.image_element(picture, "where the model looks")
    return (
        f"<article>\n<h2>{escape(caption)}</h2>\n"
        f'<p class="faint">image {escape(image_id)}, CIDEr-D {score:.1f}</p>\n'
        f"{image}<ul>\n{items}\n</ul>\n</article>"
    )


def _picture(words: Words, file: Path | None) -> bytes | None:
    return draw_words(words, None if file is None else read_image(file)) if words else None


def _find(folder: Path, image_id: str) -> Path | None:
    """Return an image's file in a folder, and never one outside of it."""
    names = [PurePath(f"{image_id}{ending}") for ending in ENDINGS]
    inside = [name for name in names if not name.is_absolute() and ".." not in name.parts]
    return next((folder / name for name in inside if (folder / name).is_file()), None)
