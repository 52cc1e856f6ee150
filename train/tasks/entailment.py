"""The visual entailment task: from the pairs of a split to a trained model and its scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...base.files import require_file
from ...base.text import counted
from ..checkpoint import EvalRequest, TrainedRun, require_blind
from ..data.ids import StoredIds, find_images
from ..data.snli_ve import (
    ENTAILMENT,
    LABELS,
    NO_ANSWER,
    VeSplit,
    format_scores,
    read_labels,
    read_pairs,
    score_pairs,
    write_labels,
)
from ..data.vocabulary import TextVocabulary, Vocabulary
from ..devices import accelerator_of_trained
from ..task import Report, format_unscored
from .answering import (
    AnsweringTask,
    EvalSplit,
    Examples,
    encode_texts,
    load_answering_run,
    predict_with,
    require_store,
)
from .settings import VeSettings

PREDICTIONS = "predictions.jsonl"
TrainedVe = TrainedRun[VeSettings, Vocabulary, nn.Module]


def encode(
    split: VeSplit,
    words: TextVocabulary,
    store: StoredIds,
    *,
    max_tokens: int,
    skip_missing: int,
) -> Examples:
    """Return the split's pairs as numbers; the premise is the image, its caption is not read.

    Pairs whose images have no features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    stored = find_images(
        split.candidates,
        store,
        texts=f"hypotheses of split {split.name!r} are",
        skip_missing=skip_missing,
    )
    answers = [{LABELS.index(pair.label): 1.0} for pair in split.pairs]
    return encode_texts(
        split, stored, answers, words=words, max_tokens=max_tokens, noun="hypotheses"
    )


class EntailmentTask(AnsweringTask[VeSettings, VeSplit]):
    """Train on the pairs of one split, and score the model on another."""

    name = "ve"
    noun = "pairs"
    affirmative = ENTAILMENT

    def read(self, split: str) -> VeSplit:
        """Return a split's pairs."""
        return read_pairs(self.settings.dataset, self.data, split)

    def choose_answers(self, training: VeSplit, held_out: VeSplit | None) -> tuple[str, ...]:
        """Return the three labels."""
        return LABELS

    def encode(self, split: VeSplit) -> Examples:
        """Return a split's pairs as numbers."""
        return encode(
            split,
            self.vocabulary.words,
            self.store,
            max_tokens=self.settings.max_tokens,
            skip_missing=self.settings.skip_missing,
        )

    def answer_loss(
        self, logits: Float[Tensor, "text answer"], targets: Float32[Tensor, "text answer"]
    ) -> Tensor:
        """Return the mean cross-entropy of the labels, shape ()."""
        return cross_entropy(logits, targets)

    def score(self, split: VeSplit, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the accuracy, over all and by label; a pair without an answer counts as wrong."""
        complete = {pair_id: answers.get(pair_id, NO_ANSWER) for pair_id in split.ids}
        scores = score_pairs(complete, split.pairs)
        return {"score": scores["accuracy"], **scores["by_class"]}

    def score_file(
        self, eval_split: EvalSplit[VeSplit], answers: Mapping[Any, str], run: Path, epoch: int
    ) -> Report:
        """Write the labels of a split's pairs into the run, and score that file: 100 or 0."""
        path, split = run / PREDICTIONS, eval_split.split
        result = score_labels(eval_split, answers, path, self.settings, epoch)
        labels = read_labels(path, split)
        scores = {pair.pair_id: 100 * (labels[pair.pair_id] == pair.label) for pair in split.pairs}
        return Report(result, eval_split.score_table(scores))


def score_labels(
    eval_split: EvalSplit[VeSplit],
    labels: Mapping[Any, str],
    path: Path,
    settings: VeSettings,
    epoch: int,
) -> dict[str, Any]:
    """Write the labels of a split's pairs to `path`; return the scores of that file."""
    split = eval_split.split
    write_labels(path, labels, split)
    return {
        "split": split.name,
        "epoch": epoch,
        "blind": settings.blind,
        **score_pairs(read_labels(path, split), split.pairs),
        "skipped": eval_split.skipped,
        "dropped": split.dropped,
        "predictions": str(path),
    }


def load_run(run: Path) -> TrainedVe:
    """Return the best model of a run folder; raises UsageError as `load_trained` does."""
    return load_answering_run(run, "ve", VeSettings)


def eval_ve(run: Path, request: EvalRequest, *, blind: Path | None = None) -> dict[str, Any]:
    """Label a split with a run's best model, write the labels into the run, return the scores.

    With `blind`, a run with `blind=true`, its scores on the same pairs are under "hypothesis_only".
    Raises UsageError for a store with other features than a run's.
    """
    trained, store, data = request.open(load_run(run))
    twin = None if blind is None else _load_blind(blind)
    pairs = read_pairs(trained.settings.dataset, data, request.split)

    def result_of(scored: TrainedVe) -> dict[str, Any]:
        path = scored.folder / f"predictions_{request.split}.jsonl"
        require_file(path, "predictions")
        settings, words = scored.settings, scored.vocabulary.words
        accelerator = accelerator_of_trained(request.device, settings)
        require_store(scored, store)
        examples = encode(
            pairs,
            words,
            store,
            max_tokens=settings.max_tokens,
            skip_missing=trained.settings.skip_missing,
        )
        labels = predict_with(scored, store, examples, accelerator)
        return score_labels(EvalSplit(pairs, examples), labels, path, settings, scored.epoch)

    result = result_of(trained)
    return result if twin is None else result | {"hypothesis_only": result_of(twin)}


def _load_blind(run: Path) -> TrainedVe:
    twin = load_run(run)
    require_blind(twin)
    return twin


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if text := format_unscored(result):
        return text
    lines = [
        f"split {result['split']}: {counted(result['n'], 'pair')}, epoch {result['epoch']}",
        *format_scores(result),
    ]
    if "hypothesis_only" in result:
        lines.append(f"{result['hypothesis_only']['accuracy']:6.2f}  hypothesis only (blind twin)")
    if result["dropped"]:
        lines.append(f"{counted(result['dropped'], 'pair')} dropped, without a gold label")
    if result["skipped"]:
        lines.append(f"counted as wrong: {counted(result['skipped'], 'pair')} without features")
    return "\n".join([*lines, result["predictions"]])
