"""What pre-training gives on the demo: fine-tuned from it against the same model from scratch.

make bench-pretrain                 # or: BENCH="--seeds 0"

For each seed a pre-training run, and VQA and visual entailment from it and from scratch, with the same
settings and as many updates; for the first seed the blind twin of pre-training, too (features as
zeros). All as the command line does, one thread each. Finished runs are not trained again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.train.compare import interval_of_mean, read_scored

from .command import clipfeat

DATA = {"vqa": "vqa", "ve": "snli_ve"}


def train(demo: Path, run: str, task: str, preset: str, data: str, *more: str) -> Path:
    """Return the run folder of a training, gone through if it is not there yet."""
    out = demo / "pretraining" / run
    if not (out / "result.json").is_file():
        paths = ("--store", demo / "scenes.clipfeat", "--data", demo / data, "--out", out)
        clipfeat("train", task, preset, *paths, *more, "--device", "cpu")
    return out


def sets(**settings: object) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def scratch_sets(pretrained: Path) -> list[str]:
    """Return what gives a run from scratch the model of a pre-training run."""
    model = json.loads((pretrained / "settings.json").read_text())["settings"]["model"]
    return [w for key, value in model.items() for w in ("--set", f"model.{key}={value}")]


def gain(task: str, ones: Sequence[Path], others: Sequence[Path]) -> str:
    """Return a row: means over seeds, and the difference with its interval over images."""
    scores = []
    for runs in (others, ones):
        scored = [read_scored(run) for run in runs]
        scores.append(np.mean([list(of_run.scores.values()) for of_run in scored], axis=0))
        images = list(scored[0].images.values())
    numbers = {image: n for n, image in enumerate(dict.fromkeys(images))}
    difference = (scores[1] - scores[0])[:, None]
    low, high = interval_of_mean(difference, np.array([numbers[image] for image in images]))
    each = [read_scored(a).scores for a in ones], [read_scored(b).scores for b in others]
    by_seed = ", ".join(
        f"{np.mean(list(a.values())) - np.mean(list(b.values())):+.1f}"
        for a, b in zip(*each, strict=True)
    )
    return (
        f"| {task} | {scores[0].mean():.1f} | {scores[1].mean():.1f} | "
        f"{difference.mean():+.1f} [{low[0]:+.1f}, {high[0]:+.1f}] | {by_seed} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    demo: Path = arguments.demo
    corpus = demo / "corpus"
    if not corpus.is_dir():
        sources = ("--captions", demo / "data/captions", "--vqa", demo / "data/vqa")
        clipfeat("corpus", *sources, "--out", corpus)
    encoders: list[dict[str, Any]] = []
    runs: dict[str, tuple[list[Path], list[Path]]] = {task: ([], []) for task in DATA}
    for seed in arguments.seeds:
        seeded = sets(seed=seed)
        encoder = train(demo, f"encoder-{seed}", "pretrain", "demo", "corpus", *seeded)
        encoders.append(json.loads((encoder / "result.json").read_text()))
        for task, data in DATA.items():
            into = (task, "demo_finetune", f"data/{data}", *seeded)
            tuned, scratch = runs[task]
            tuned.append(train(demo, f"{task}-{seed}", *into, "--init", str(encoder)))
            scratch.append(train(demo, f"{task}-scratch-{seed}", *into, *scratch_sets(encoder)))
    print("| task | from scratch | from pre-training | gain [95 %, over images] | by seed |")
    print("|---|---|---|---|---|")
    for task, (tuned, scratch) in runs.items():
        print(gain(task, tuned, scratch))
    print()
    blinded = ("pretrain", "demo", "corpus", *sets(seed=arguments.seeds[0], blind="true"))
    twin = train(demo, f"blind-{arguments.seeds[0]}", *blinded)
    blind = json.loads((twin / "result.json").read_text())
    print("| accuracy of | with images, by seed | their features as zeros | the blind twin |")
    print("|---|---|---|---|")
    for name in ("words", "matching", "answers"):
        seeing, zeroed = (
            ", ".join(f"{result[name]:.1f}" for result in results)
            for results in (encoders, [result["without_image"] for result in encoders])
        )
        print(f"| {name} | {seeing} | {zeroed} | {blind[name]:.1f} |")


if __name__ == "__main__":
    main()
