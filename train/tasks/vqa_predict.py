"""Ask a trained VQA model one question: its answer, and where it looked."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from ...base.errors import UsageError
from ...base.files import require_file
from ...base.text import printable
from ...featstore import FeatureStore
from ..attention_maps import draw_answer, read_image
from ..checkpoint import TrainedRun
from ..data.vocabulary import Vocabulary
from ..devices import accelerator_of_trained, inference_errors
from ..models.settings import AnsweringSettings
from ..records import RecordReader
from ..region_maps import RegionMap
from ..task import on_device
from .answering import Examples, load_answering_run, read_batch, require_store
from .settings import VqaSettings

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=AnsweringSettings)
TOP = 5  # answers that a question gets, the likeliest first


TrainedVqa = TrainedRun[VqaSettings, Vocabulary, nn.Module]


@dataclass(frozen=True)
class Answer:
    """What a model answers to one question, and where it looked."""

    answer: str
    score: float  # the model's own estimate of the answer's accuracy, 0 to 1
    top: tuple[tuple[str, float], ...]  # the likeliest answers with their scores; this is the first
    attention: Float32[np.ndarray, "row col"]  # sums to 1; of regions there is one column


def load_run(run: Path) -> TrainedVqa:
    """Return the best model of a run folder, on the CPU.

    Raises UsageError where the folder is no VQA run or has no checkpoint yet.
    """
    return load_answering_run(run, "vqa", VqaSettings)


def answer(run: TrainedVqa, store: FeatureStore, image_id: str, question: str) -> Answer:
    """Answer one question about one image of a store, and say where the model looked.

    Raises UsageError where the store has other features than the run's, StoreError for
    an image without features.
    """
    logits, attention = read_text(run, store, image_id, question)
    answers = run.vocabulary.answers
    best, places = logits.topk(min(TOP, len(answers)))
    texts = (answers[number] for number in places.tolist())
    top = tuple(zip(texts, best.sigmoid().tolist(), strict=True))
    return Answer(*top[0], top=top, attention=attention)


@torch.inference_mode()
def read_text(
    run: TrainedRun[S, Vocabulary, nn.Module], store: FeatureStore, image_id: str, text: str
) -> tuple[Float32[Tensor, " answer"], Float32[np.ndarray, "row col"]]:
    """Return the logits of a run's answers to a text about an image, and where the model looked.

    Raises as `answer` does.
    """
    require_store(run, store)
    tokens = run.vocabulary.words.encode([text], max_tokens=run.settings.max_tokens)
    only = np.zeros(1, dtype=np.int64)
    examples = Examples((0,), (image_id,), image_of_text=only, tokens=tokens, targets=None)
    model = run.model.eval()
    device = next(model.parameters()).device
    reader = RecordReader(store, device)
    answers = len(run.vocabulary.answers)
    batch = read_batch(reader, examples, only, answers=answers)
    outputs = model(on_device(batch, device))
    attention = outputs.attention[0].float().cpu().numpy()
    return outputs.logits[0, :answers].float(), attention.reshape(*batch.grid_shapes[0].tolist())


def knows_a_word(run: TrainedVqa, question: str) -> bool:
    """Return whether a run's training has met any word of a question."""
    words = run.vocabulary.words
    return bool(words.known(words.encode([question], max_tokens=run.settings.max_tokens))[0])


PICTURE = "answer.png"


def ask(
    run: Path,
    *,
    image_id: str,
    question: str,
    image: Path | None,
    store: str | Path | None,
    out: Path | None,
    device: str | None,
) -> dict[str, Any]:
    """Answer a question, draw it into `out`, and return what `clipfeat predict --json` prints.

    `store` and `out` are by default those of the run; `image` is the file behind the features,
    for the picture alone. Logs a warning where training has met no word of the question.
    Raises UsageError and StoreError, as `answer` does, before anything is written.
    """
    if not question.strip():
        raise UsageError(
            "--question is empty; pass one, such as --question 'What is this?'",
            code="E-OPTION-QUESTION",
        )
    try:  # in a locale without UTF-8, Python gives its bytes another meaning
        question = os.fsencode(question).decode()
    except UnicodeError:
        raise UsageError(
            f"--question must be UTF-8; got {question!r:.60}", code="E-OPTION-QUESTION"
        ) from None
    if out is not None:
        require_file(out, "--out")
    pixels = None if image is None else read_image(image)
    trained = load_run(run)
    accelerator = accelerator_of_trained(device, trained.settings)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    trained = dataclasses.replace(trained, model=model)
    features = FeatureStore.open(store or trained.manifest.store)
    with inference_errors(trained.settings.precision):
        given = answer(trained, features, image_id, question)
    if not knows_a_word(trained, question):
        logger.warning(
            "the model knows no word of the question; its answer depends on the image alone"
        )
    picture = out or run / PICTURE
    grid, mask, attention = features[image_id], features.mask(image_id), given.attention
    if regions := RegionMap.of(features, image_id):
        grid, attention = regions.features(grid[:, 0]), regions.attention(attention[:, 0])
        mask = np.ones(attention.shape, bool)
    draw_answer(
        picture,
        question=question,
        top=given.top,
        attention=attention,
        grid=grid,
        mask=mask,
        image=pixels,
    )
    return {
        "image_id": image_id,
        "question": question,
        "answer": given.answer,
        "score": given.score,
        "top": [list(pair) for pair in given.top],
        "grid": list(given.attention.shape),
        "attention": given.attention.tolist(),
        "picture": str(picture),
    }


def format_answer(answered: Mapping[str, Any]) -> str:
    """Return an answer as lines for people."""
    lines = [f"{_shown(answered['answer'])}  ({answered['score']:.1%})", ""]
    lines += [f"{score:6.1%}  {_shown(answer)}" for answer, score in answered["top"]]
    return "\n".join([*lines, "", answered["picture"]])


def _shown(answer: str) -> str:
    return printable(answer) or '""'  # the empty answer is one of VQA v2's
