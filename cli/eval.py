"""clipfeat eval and clipfeat compare: the scores of runs, and how much better one is."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import UsageError, needs_extra
from ..base.text import counted
from .options import LocalPath, as_json, ema, model_config, refuse, scored_on, show

if TYPE_CHECKING:
    from ..featstore import FeatureStore
    from ..train.tasks.captioning.evaluation import Embed

logger = logging.getLogger(__name__)

A_PATH = LocalPath()


@click.group("eval")
def eval_() -> None:
    """Score the best checkpoint of a run, or a file of predictions.

    \b
    $ clipfeat eval vqa run --split val --json
    $ clipfeat eval ve run --split test --json
    $ clipfeat eval caption run --split test --beam 5 --json
    $ clipfeat eval caption --results r.json --references dataset_coco.json --split test
    $ clipfeat eval nav run --split val_unseen
    $ clipfeat eval nav --results r.json --data R2R/ --graphs connectivity/ --split val_unseen
    """


@eval_.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split to answer, such as val or test-dev.")
@scored_on
@click.option("--predictions", type=A_PATH, help="Score this file instead of a run.")
@click.option("--questions", type=A_PATH, help="Questions that --predictions answer.")
@click.option(
    "--annotations", type=A_PATH, help="Annotations of the questions, if they are in another file."
)
@as_json
def vqa(*, run: Path | None, as_json: bool, **options: Any) -> None:
    """Answer the questions of a split and score the answers.

    Writes RUN/predictions_<split>.json, and prints the official accuracy in percent if the split
    has annotations. With --predictions it scores a file in the format of the data set's leaderboard,
    and needs no run.

    \b
    $ clipfeat eval vqa run --split test-dev --data vqa/
    $ clipfeat eval vqa --predictions p.json --questions q.json --annotations a.json
    """
    predictions, questions, annotations = (
        options.pop(name) for name in ("predictions", "questions", "annotations")
    )
    if run is not None:
        of_file = {"predictions": predictions, "questions": questions, "annotations": annotations}
        refuse(of_file, "RUN")
        _eval_run(run, options, as_json=as_json)
    elif predictions is None or questions is None:
        raise UsageError(
            "pass RUN and --split, or --predictions and --questions", code="E-OPTION-MISSING"
        )
    else:
        refuse(options, "--predictions")
        _eval_file(predictions, questions, annotations, as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split to label, such as dev or test.")
@scored_on
@click.option(
    "--blind", type=A_PATH, metavar="RUN", help="Also score this run without features and compare."
)
@click.option("--predictions", type=A_PATH, help="Score this file instead of a run.")
@click.option("--pairs", type=A_PATH, help="Pairs that --predictions label: .jsonl or .csv.")
@as_json
def ve(
    *,
    run: Path | None,
    blind: Path | None,
    predictions: Path | None,
    pairs: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Label the hypotheses of a split and score the labels.

    Writes RUN/predictions_<split>.jsonl, and prints the accuracy in percent, overall and for each
    class, and the confusion matrix. With --predictions it scores such a file, and needs no run.

    \b
    $ clipfeat eval ve run --split test --blind blind --json
    $ clipfeat eval ve --predictions p.jsonl --pairs snli_ve_test.jsonl
    """
    if run is None:
        if predictions is None or pairs is None:
            raise UsageError(
                "pass RUN and --split, or --predictions and --pairs", code="E-OPTION-MISSING"
            )
        refuse(options | {"blind": blind}, "--predictions")
        _ve_file(predictions, pairs, as_json=as_json)
        return
    refuse({"predictions": predictions, "pairs": pairs}, "RUN")
    if options["split"] is None:
        raise UsageError("RUN needs --split, such as --split test", code="E-OPTION-MISSING")
    with needs_extra("train"):
        from ..train.tasks.entailment import EvalRequest, eval_ve, format_result
    result = eval_ve(run, EvalRequest(**options), blind=blind)
    show(result, format_result(result), as_json=as_json)


def _ve_file(predictions: Path, pairs: Path, *, as_json: bool) -> None:
    """Score a file of labels; torch is not needed."""
    from ..train.data.snli_ve import format_scores, read_labels, read_pairs_file, score_pairs

    split = read_pairs_file(pairs, pairs.stem)
    result = score_pairs(read_labels(predictions, split), split.pairs)
    lines = [f"{predictions}: {counted(result['n'], 'pair')}", *format_scores(result)]
    show(result | {"dropped": split.dropped}, "\n".join(lines), as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH)
@click.option("--split", required=True, help="Corpus to score RUN on, such as mscoco_minival.")
@scored_on
@as_json
def pretrain(*, run: Path, as_json: bool, **options: Any) -> None:
    """Score a pre-training run on its objectives.

    Prints accuracies in percent for masked words, answers and replaced texts of a corpus, and those
    of the same model with all features set to zero.

    \b
    $ clipfeat eval pretrain stage1 --split mscoco_minival --json
    """
    with needs_extra("train"):
        from ..train.tasks.pretraining.task import EvalRequest, eval_pretrain, format_result
    result = eval_pretrain(run, EvalRequest(**options))
    show(result, format_result(result), as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split to caption, or split of Karpathy's file, such as test.")
@click.option(
    "--beam", type=click.IntRange(min=1, max=512), help="Beam size.  [default: that of the run]"
)
@scored_on
@click.option(
    "--page",
    is_flag=True,
    help="Write RUN/examples.html: captions, and the attention of each word.",
)
@click.option("--images", type=A_PATH, metavar="DIR", help="Folder of the image files, for --page.")
@click.option(
    "--results", type=A_PATH, help="Score these captions, in COCO's format, instead of a run."
)
@click.option(
    "--references",
    type=A_PATH,
    help="Human captions: JSON of COCO, of Karpathy's splits, or plain.",
)
@click.option(
    "--subset", is_flag=True, help="Allow --results with only some images of --references."
)
@click.option(
    "--clipscore", is_flag=True, help="Also print CLIPScore and retrieval, by the store's model."
)
@click.option("--pretrained", metavar="PATH", help="With --clipscore: place of the weights.")
@model_config
@ema
@as_json
def caption(
    *,
    run: Path | None,
    results: Path | None,
    references: Path | None,
    subset: bool,
    clipscore: bool,
    pretrained: str | None,
    model_config: str | None,
    ema: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Caption the images of a split and score the captions.

    Writes RUN/predictions_<split>.json. RUN is the folder of both stages, of which the last is
    scored, or the folder of one stage. Prints CIDEr-D, and, if java is installed, BLEU, METEOR,
    ROUGE-L and CIDEr. With --results it scores a file of captions, and needs neither a run nor
    torch. --clipscore needs a store with embeddings (clipfeat extract --pooled).

    \b
    $ clipfeat eval caption run --split test --beam 5 --json
    $ clipfeat eval caption run --split val --page --images coco/
    $ clipfeat eval caption --results r.json --references captions_val2014.json --json
    $ clipfeat eval caption --results r.json --references dataset_coco.json --split test
    $ clipfeat eval caption run --split test --clipscore --pretrained RN50.pt
    """
    weights = {"pretrained": pretrained, "model_config": model_config, "ema": ema}
    if any(weights.values()) and not clipscore:
        raise UsageError(
            "--pretrained, --model-config and --ema need --clipscore; add it, or drop them",
            code="E-OPTION-MISSING",
        )
    embedder = _embedder(weights, options["device"]) if clipscore else None
    if run is not None:
        refuse({"results": results, "references": references, "subset": subset}, "RUN")
        _caption_run(run, options | {"embedder": embedder}, as_json=as_json)
    elif results is None or references is None:
        raise UsageError(
            "pass RUN and --split, or --results and --references", code="E-OPTION-MISSING"
        )
    else:
        allowed = {"split", "store", "device"} if clipscore else {"split"}
        refuse({n: value for n, value in options.items() if n not in allowed}, "--results")
        _caption_file(
            results,
            references,
            split=options["split"],
            subset=subset,
            store=options["store"],
            embedder=embedder,
            as_json=as_json,
        )


def _caption_run(run: Path, options: dict[str, Any], *, as_json: bool) -> None:
    if options["split"] is None:
        raise UsageError("RUN needs --split, such as --split test", code="E-OPTION-MISSING")
    with needs_extra("train"):
        from ..train.tasks.captioning.evaluation import EvalRequest, eval_caption, format_result
    of_captions = {name: options.pop(name) for name in ("beam", "page", "images", "embedder")}
    result = eval_caption(run, EvalRequest(**options), **of_captions)
    show(result, format_result(result), as_json=as_json)


def _embedder(weights: dict[str, Any], device: str | None) -> "Callable[[FeatureStore], Embed]":
    """Return a function that, for a store, returns a function that embeds texts."""
    with needs_extra("extract"):
        from ..extract.embedding import text_embedder
    return partial(text_embedder, device=device, **weights)


def _caption_file(
    results: Path,
    references: Path,
    *,
    split: str | None,
    subset: bool,
    store: str | Path | None,
    embedder: "Callable[[FeatureStore], Embed] | None",
    as_json: bool,
) -> None:
    """Score captions of a file; torch is needed only with an embedder."""
    if embedder is not None and store is None:
        raise UsageError(
            "--results with --clipscore needs --store, which has the embeddings of the images",
            code="E-OPTION-MISSING",
        )
    with needs_extra("caption"):
        from ..train.metrics.captions import format_scores, score
    from ..train.data.caption_files import match_references, read_references, read_results

    captions = read_results(results)
    human = match_references(captions, read_references(references, split), subset=subset)
    captions = {image: captions[image] for image in human}
    clip_scores: dict[str, float] = {}
    if store is not None and embedder is not None:
        from ..featstore import FeatureStore
        from ..train.tasks.captioning.evaluation import score_results

        opened = FeatureStore.open(store)
        clip_scores = score_results(opened, captions, human, embedder(opened))
    scores = score(captions, human) | clip_scores
    show(scores, "\n".join(format_scores(scores)), as_json=as_json)


def _eval_run(run: Path, options: dict[str, Any], *, as_json: bool) -> None:
    if options["split"] is None:
        raise UsageError("RUN needs --split, such as --split val", code="E-OPTION-MISSING")
    with needs_extra("train"):
        from ..train.tasks.vqa import EvalRequest, eval_vqa, format_result
    result = eval_vqa(run, EvalRequest(**options))
    if result["overall"] is None:
        split = options["split"]
        logger.info(f"split {split} has no annotations: predictions are written, not scored")
    show(result, format_result(result), as_json=as_json)


def _eval_file(
    predictions: Path, questions: Path, annotations: Path | None, *, as_json: bool
) -> None:
    """Score a file of predictions; torch is not needed."""
    from ..train.data.questions import format_scores, score_file
    from ..train.data.vqa_files import read_question_files

    result = score_file(predictions, read_question_files(questions, annotations))
    lines = [f"{predictions}: {counted(result['n'], 'question')}", *format_scores(result)]
    show(result, "\n".join(lines), as_json=as_json)


@click.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, type=LocalPath())
@click.option(
    "--table",
    is_flag=False,
    flag_value="text",
    type=click.Choice(["text", "markdown", "latex"]),
    help="Print encoders by tasks, over seeds; after the runs, --table alone is --table text.",
)
@click.option(
    "--baseline", metavar="ENCODER", help="Row to compare with.  [default: that of the first run]"
)
@as_json
def compare(
    *, runs: tuple[Path, ...], table: str | None, baseline: str | None, as_json: bool
) -> None:
    """Compare the scores of runs of one task, or of several with --table.

    Each run is compared with the first one, on the examples that all of them were scored on.
    Prints each run's score, its difference from the first, and the 95% bootstrap interval of that
    difference. Images are resampled with all of their questions, which are not independent.

    With --table, a row is an encoder, or a run without features, and a column a task. Runs that
    differ in the seed alone share a cell, whose interval is over images and seeds.

    \b
    $ clipfeat compare runs/rn50 runs/rn50x4
    $ clipfeat compare runs/*-seed* --table markdown --baseline RN50
    """
    if baseline is not None and table is None:
        raise UsageError(
            f"--baseline {baseline} names a row of --table; add it, or put the run to compare with "
            "first",
            code="E-OPTION-MISSING",
        )
    with needs_extra("train"):
        from ..train import compare as pairs
        from ..train import compare_table, table_text
    if table is not None:
        made = compare_table.make_table(runs, baseline)
        text = table_text.format_table(made, table)
        show(compare_table.to_json(made), text, as_json=as_json)
        return
    compared = pairs.compare(runs)
    show(pairs.to_json(compared), pairs.format_table(compared), as_json=as_json)
