"""Trained runs: what they answer about an image, where they look, and where two of them differ."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import ClipfeatError, UsageError, needs_extra
from ..base.text import printable
from ..featstore import FeatureStore

if TYPE_CHECKING:
    from ..train.run import RunManifest

TASKS = ("vqa", "ve", "caption")
STAGES = ("scst", "xe")  # of a captioning run, the last one first
KEPT_COMPARISONS = 4


class ViewedRun:
    """A run that is open in the explorer. Its model is loaded when first needed, on the CPU.

    It computes in float32, whatever the precision of its training. Safe to share between threads.
    """

    def __init__(self, key: str, folder: Path, stores: Mapping[str, FeatureStore]):
        """Read the run's settings, and choose the store whose features are those of its training.

        Raises UsageError for a folder that is not a run, for a run of another task (E-VIEW-TASK), and
        where no store fits (E-VIEW-RUN-STORE).
        """
        with needs_extra("train"):
            from ..train.run import SCORES, read_manifest
        self.key = key
        self.named = folder
        self.folder = _stage_of(folder)
        self.manifest = read_manifest(self.folder)
        if self.manifest.task not in TASKS:
            raise UsageError(
                f"--run {folder} is a run of task {printable(self.manifest.task)!r:.40}; runs of "
                f"{', '.join(TASKS)} can be viewed",
                code="E-VIEW-TASK",
            )
        self.store_key = _store_of(self.manifest, stores, folder)
        self.store = stores[self.store_key]
        split = self.manifest.settings.get("eval_split")
        is_scored = isinstance(split, str) and split and (self.folder / SCORES).is_file()
        self._splits = [split] if is_scored else []
        self._lock = Lock()
        self._loaded: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows of the run."""
        return {
            "key": self.key,
            "task": self.manifest.task,
            "folder": str(self.named),
            "store": self.store_key,
            "splits": self._splits,
        }

    def _require_task(self, task: str) -> None:
        if self.manifest.task != task:
            raise UsageError(
                f"{self.named} is a run of task {self.manifest.task}, and this needs one of {task}",
                code="E-VIEW-TASK",
            )

    def answer(self, image_id: str, question: str) -> dict[str, Any]:
        """Return the likeliest answers to a question, with the accuracy that the model expects."""
        self._require_task("vqa")
        with needs_extra("train"):
            from ..train.tasks.vqa_predict import answer, load_run
        with self._lock:
            self._loaded = self._loaded or load_run(self.folder)
            found = answer(self._loaded, self.store, image_id, _asked(question))
        return {
            "answers": [{"answer": text, "score": round(score, 4)} for text, score in found.top],
            "attention": [shown_weights(found.attention)],
        }

    def entail(self, image_id: str, hypothesis: str) -> dict[str, Any]:
        """Return the chance of each label of a hypothesis about an image."""
        self._require_task("ve")
        with needs_extra("train"):
            from ..train.tasks.entailment import load_run
            from ..train.tasks.vqa_predict import read_text
        with self._lock:
            self._loaded = self._loaded or load_run(self.folder)
            logits, weights = read_text(self._loaded, self.store, image_id, _asked(hypothesis))
        chances = logits.softmax(dim=0).tolist()
        labels = self._loaded.vocabulary.answers
        return {
            "chances": {k: round(v, 4) for k, v in zip(labels, chances, strict=True)},
            "attention": [shown_weights(weights)],
        }

    def caption(self, image_id: str) -> dict[str, Any]:
        """Return the words of an image's caption, each with the attention over the cells."""
        self._require_task("caption")
        with needs_extra("train"):
            from ..train.tasks.captioning.model import load_stage
            from ..train.tasks.captioning.page import attended_words
            from ..train.tasks.captioning.predict import best_caption
        with self._lock:
            self._loaded = self._loaded or load_stage(self.folder)
            text = best_caption(self._loaded, self.store, image_id)
            words = attended_words(self._loaded, self.store, [image_id], [text])[0] if text else []
        return {"words": [{"word": w, "attention": shown_weights(cells)} for w, cells in words]}


def _stage_of(folder: Path) -> Path:
    """Return the folder of a run, of a captioning run that of its last stage."""
    from ..train.run import SETTINGS

    stages = (folder / stage for stage in STAGES)
    found = (path for path in (folder, *stages) if (path / SETTINGS).is_file())
    return next(found, folder)


def _store_of(manifest: "RunManifest", stores: Mapping[str, FeatureStore], folder: Path) -> str:
    """Return the key of the store that a run was trained on, or of one with such features."""
    from ..train.run import require_features

    problem = ""
    for key, store in sorted(
        stores.items(), key=lambda each: each[1].digest != manifest.store_digest
    ):
        try:
            require_features(store, manifest)
        except UsageError as error:
            problem = problem or str(error)
        else:
            return key
    raise UsageError(
        f"--run {folder}: none of the stores has its features ({problem}); view the store that it was "
        f"trained on too",
        code="E-VIEW-RUN-STORE",
    )


def _asked(text: str) -> str:
    if not text.strip():
        raise UsageError("the text is empty; type one", code="E-VIEW-TEXT")
    return text


def shown_weights(cells: np.ndarray) -> list[float]:
    """Return attention over a grid as a weight for each cell, in reading order."""
    return np.round(cells.astype(np.float64).ravel(), 6).tolist()


class Comparisons:
    """The examples of pairs of runs, those on which they differ most first."""

    def __init__(self) -> None:
        self._of = lru_cache(KEPT_COMPARISONS)(_compare)

    def page(self, runs: Sequence[ViewedRun], start: int, count: int) -> dict[str, Any]:
        """Return some examples of two runs with the score of each, in percent.

        Raises UsageError for runs that were not scored on the same examples.
        """
        if len(runs) != 2 or runs[0] is runs[1]:
            raise UsageError("runs: name two different ones", code="E-VIEW-RUNS")
        examples = self._of(*runs)
        differ = sum(a != b for *_, (a, b) in examples)
        shown = [
            {"example": example, "id": image, "text": text, "scores": [*scores]}
            for example, image, text, scores in examples[start : start + count]
        ]
        return {"n": len(examples), "differ": differ, "start": start, "examples": shown}


Example = tuple[int | str, str | None, str, tuple[float, float]]


def _compare(one: ViewedRun, other: ViewedRun) -> list[Example]:
    """Return (example, image id or None, text, scores) of all examples, by falling difference."""
    from ..train.compare import common_scores, read_runs

    scored = read_runs([one.folder, other.folder])
    scores, _ = common_scores(scored)
    first = scored[0]
    ids = list(first.scores)
    texts = _texts(one.manifest, first.split)
    images = [str(first.images[example]) for example in ids]
    known = [status is not None for status in one.store.statuses(images)]
    order = np.argsort(-np.abs(scores[:, 0] - scores[:, 1]), kind="stable")
    return [
        (
            ids[k],
            images[k] if known[k] else None,
            texts.get(str(ids[k]), ""),
            (float(scores[k, 0]), float(scores[k, 1])),
        )
        for k in order.tolist()
    ]


def _texts(manifest: "RunManifest", split: str) -> dict[str, str]:
    """Return the text of each example of a split, nothing where the data are not there any more."""
    data, dataset = Path(manifest.data), manifest.settings.get("dataset")
    try:
        if manifest.task == "vqa":
            from ..train.data.vqa_files import read_questions

            found: Any = read_questions(str(dataset), data, split, annotated=False)
        elif manifest.task == "ve":
            from ..train.data.snli_ve import read_pairs

            found = read_pairs(str(dataset), data, split)
        else:
            return {}
    except (ClipfeatError, OSError, KeyError, ValueError):
        return {}
    return {str(key): text for key, text in zip(found.ids, found.texts, strict=True)}
