"""Ask a run one question: its answer, and a picture of where it looked."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ...base.files import require_file
from ...base.text import printable
from ...featstore import FeatureStore
from ..loop.devices import accelerator_of_trained, inference_errors
from ..pictures.attention import draw_answer, read_image
from .predict import answer, knows_a_word, load_run

PICTURE = "answer.png"


def ask(
    run: Path,
    *,
    image_id: str,
    question: str,
    image: Path | None,
    store: Path | None,
    out: Path | None,
    device: str | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Answer a question, draw it into `out`, and return what `clipfeat predict --json` prints.

    `store` and `out` are by default those of the run; `image` is the file behind the features,
    for the picture alone. `say` gets a line where training has met no word of the question.
    Raises UsageError and StoreError, as `answer` does, before anything is written.
    """
    if not question.strip():
        raise UsageError("--question is empty; pass one, such as --question 'What is this?'")
    try:  # in a locale without UTF-8, Python gives its bytes another meaning
        question = os.fsencode(question).decode()
    except UnicodeError:
        raise UsageError(f"--question must be UTF-8; got {question!r:.60}") from None
    if out is not None:
        require_file(out, "--out")
    pixels = None if image is None else read_image(image)
    trained = load_run(run)
    accelerator = accelerator_of_trained(device, trained.settings)
    model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    trained = dataclasses.replace(trained, model=model)
    features = FeatureStore.open(store or Path(trained.card.store))
    with inference_errors(trained.settings.precision):
        found = answer(trained, features, image_id, question)
    if not knows_a_word(trained, question):
        say("the model knows no word of the question; it goes by the image alone")
    picture = out or run / PICTURE
    draw_answer(
        picture,
        question=question,
        top=found.top,
        attention=found.attention,
        grid=features[image_id],
        mask=features.mask(image_id),
        image=pixels,
    )
    return {
        "image_id": image_id,
        "question": question,
        "answer": found.answer,
        "score": found.score,
        "top": [list(pair) for pair in found.top],
        "grid": list(found.attention.shape),
        "attention": found.attention.tolist(),
        "picture": str(picture),
    }


def describe(found: Mapping[str, Any]) -> str:
    """Return an answer as lines for people."""
    lines = [f"{_shown(found['answer'])}  ({found['score']:.1%})", ""]
    lines += [f"{score:6.1%}  {_shown(answer)}" for answer, score in found["top"]]
    return "\n".join([*lines, "", found["picture"]])


def _shown(answer: str) -> str:
    return printable(answer) or '""'  # the empty answer is one of VQA v2's
