"""clipfeat eval: score a trained run on a split, or anybody's predictions."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import UsageError, needs_extra
from .options import LocalPath, as_json, show, skip_missing
from .options import device as device_option

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
    """


@eval_.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split that RUN answers, such as val or test-dev.")
@click.option("--store", type=A_PATH, help="Default: the store of the run.")
@click.option("--data", type=A_PATH, help="Default: the data of the run.")
@skip_missing
@device_option
@click.option("--predictions", type=A_PATH, help="Score this file, in place of a run.")
@click.option("--questions", type=A_PATH, help="Questions that --predictions answers.")
@click.option("--annotations", type=A_PATH, help="Their VQA v2 annotations; GQA has none.")
@as_json
def vqa(*, run: Path | None, as_json: bool, **options: Any) -> None:
    """Answer every question of a split; the answers go to RUN/predictions_<split>.json.

    Prints the official accuracy in percent, where the split has annotations. With --predictions
    it scores a file in a leaderboard's format, of VQA v2 or of GQA, and needs no run.

    \b
    $ clipfeat eval vqa run --split test-dev --data vqa/
    $ clipfeat eval vqa --predictions p.json --questions q.json --annotations a.json
    """
    predictions, questions, annotations = (
        options.pop(name) for name in ("predictions", "questions", "annotations")
    )
    if run is not None:
        of_file = {"predictions": predictions, "questions": questions, "annotations": annotations}
        _refuse(of_file, "RUN")
        _eval_run(run, options, as_json=as_json)
    elif predictions is None or questions is None:
        raise UsageError("pass RUN and --split, or --predictions and --questions")
    else:
        _refuse(options, "--predictions")
        _eval_file(predictions, questions, annotations, as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH)
@click.option("--split", required=True, help="Split that RUN answers, such as dev or test.")
@click.option("--store", type=A_PATH, help="Default: the store of the run.")
@click.option("--data", type=A_PATH, help="Default: the data of the run.")
@click.option("--blind", type=A_PATH, metavar="RUN", help="Score its blind twin beside it.")
@skip_missing
@device_option
@as_json
def ve(*, run: Path, as_json: bool, **options: Any) -> None:
    """Label every hypothesis of a split; the labels go to RUN/predictions_<split>.jsonl.

    Prints the accuracy in percent, overall and by class, and the confusion matrix.

    \b
    $ clipfeat eval ve run --split test --blind blind --json
    """
    with needs_extra("train"):
        from ..train.tasks.entailment import describe, eval_ve
    result = eval_ve(run, **options)
    show(result, describe(result), as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH)
@click.option("--split", required=True, help="Corpus that RUN is asked about: mscoco_minival.")
@click.option("--store", type=A_PATH, help="Default: the store of the run.")
@click.option("--data", type=A_PATH, help="Default: the data of the run.")
@skip_missing
@device_option
@as_json
def pretrain(*, run: Path, as_json: bool, **options: Any) -> None:
    """Say how much of a corpus's hidden words, answers and replaced texts a run finds out.

    Prints accuracies in percent, beside those of the same model with its features as zeros.

    \b
    $ clipfeat eval pretrain stage1 --split mscoco_minival --json
    """
    with needs_extra("train"):
        from ..train.tasks.pretraining.task import describe, eval_pretrain
    result = eval_pretrain(run, **options)
    show(result, describe(result), as_json=as_json)


@eval_.command()
@click.argument("run", type=A_PATH, required=False)
@click.option("--split", help="Split that RUN captions, or of Karpathy's file, such as test.")
@click.option("--beam", type=click.IntRange(min=1, max=512), help="Default: that of the run.")
@click.option("--store", type=A_PATH, help="Default: the store of the run.")
@click.option("--data", type=A_PATH, help="Default: the data of the run.")
@skip_missing
@device_option
@click.option("--page", is_flag=True, help="Write RUN/examples.html: captions, and where it looks.")
@click.option("--images", type=A_PATH, metavar="DIR", help="The image files, for --page.")
@click.option("--results", type=A_PATH, help="Score these captions, as COCO has them.")
@click.option("--references", type=A_PATH, help="What people wrote: COCO's, Karpathy's, plain.")
@click.option("--subset", is_flag=True, help="Score some images of the references alone.")
@click.option("--clipscore", is_flag=True, help="CLIPScore and retrieval, by the store's model.")
@click.option("--pretrained", metavar="PATH", help="With --clipscore: weights that are a file.")
@as_json
def caption(
    *,
    run: Path | None,
    results: Path | None,
    references: Path | None,
    subset: bool,
    clipscore: bool,
    pretrained: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Caption every image of a split; the captions go to RUN/predictions_<split>.json.

    RUN is the folder of both stages, of which the last one counts, or that of one. Prints BLEU,
    METEOR, ROUGE-L and CIDEr where there is java, and CIDEr-D anyway. With --results it scores a
    file of captions, and needs no run and no torch. --clipscore takes a store with embeddings
    (clipfeat extract --pooled).

    \b
    $ clipfeat eval caption run --split test --beam 5 --json
    $ clipfeat eval caption run --split val --page --images coco/
    $ clipfeat eval caption --results r.json --references captions_val2014.json --json
    $ clipfeat eval caption --results r.json --references dataset_coco.json --split test
    $ clipfeat eval caption run --split test --clipscore --pretrained RN50.pt
    """
    if pretrained is not None and not clipscore:
        raise UsageError("--pretrained goes with --clipscore; pass that too, or leave it out")
    embedder = _embedder(pretrained, options["device"]) if clipscore else None
    if run is not None:
        _refuse({"results": results, "references": references, "subset": subset}, "RUN")
        _caption_run(run, options | {"embedder": embedder}, as_json=as_json)
    elif results is None or references is None:
        raise UsageError("pass RUN and --split, or --results and --references")
    else:
        taken = {"split", "store", "device"} if clipscore else {"split"}
        _refuse({n: value for n, value in options.items() if n not in taken}, "--results")
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
        raise UsageError("RUN needs --split, the split that it captions, such as test")
    with needs_extra("train"):
        from ..train.tasks.captioning.evaluation import describe, eval_caption
    result = eval_caption(run, **options)
    show(result, describe(result), as_json=as_json)


def _embedder(pretrained: str | None, device: str | None) -> "Callable[[FeatureStore], Embed]":
    """Return what makes a function that embeds texts of a store."""
    from ..extract.embedding import text_embedder

    return partial(text_embedder, pretrained=pretrained, device=device)


def _caption_file(
    results: Path,
    references: Path,
    *,
    split: str | None,
    subset: bool,
    store: Path | None,
    embedder: "Callable[[FeatureStore], Embed] | None",
    as_json: bool,
) -> None:
    """Score captions of a file; this way needs no torch, unless it gets an embedder."""
    if embedder is not None and store is None:
        raise UsageError("--results and --clipscore need --store, which has the images")
    with needs_extra("caption"):
        from ..train.metrics.captions import format_scores, score
    from ..train.data.caption_files import match_references, read_references, read_results

    said = read_results(results)
    own = match_references(said, read_references(references, split), subset=subset)
    found: dict[str, float] = {}
    if store is not None and embedder is not None:
        from ..featstore import FeatureStore
        from ..train.tasks.captioning.evaluation import score_results

        opened = FeatureStore.open(store)
        found = score_results(opened, said, own, embedder(opened))
    scores = score(said, own) | found
    show(scores, "\n".join(format_scores(scores)), as_json=as_json)


def _refuse(options: dict[str, Any], given: str) -> None:
    """Raise UsageError where an option of the other way to call the command was typed."""
    for name, value in options.items():
        if value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{given} and {option} exclude each other; leave one of them out")


def _eval_run(run: Path, options: dict[str, Any], *, as_json: bool) -> None:
    if options["split"] is None:
        raise UsageError("RUN needs --split, the split that it answers, such as val")
    with needs_extra("train"):
        from ..train.tasks.vqa import describe, eval_vqa
    result = eval_vqa(run, **options)
    if result["overall"] is None:
        split = options["split"]
        logger.info(f"split {split} has no annotations: predictions only, nothing scored")
    show(result, describe(result), as_json=as_json)


def _eval_file(
    predictions: Path, questions: Path, annotations: Path | None, *, as_json: bool
) -> None:
    """Score a file of predictions; this way needs no torch."""
    from ..train.data.questions import format_scores, score_file
    from ..train.data.vqa_files import read_question_files

    result = score_file(predictions, read_question_files(questions, annotations))
    lines = [f"{predictions}: {result['n']} questions", *format_scores(result)]
    show(result, "\n".join(lines), as_json=as_json)
