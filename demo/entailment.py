"""Statements about a scene that it entails, contradicts, or leaves open.

The same sentences about the same things come under every label: what is named is there
(entailment), is not there (contradiction), or is not to be seen but may be in the closed box
(neutral). A model that reads the sentence alone is at chance, which real SNLI-VE is not.
"""

from dataclasses import dataclass

import numpy as np

from .captions import make_captions
from .scenes import NAMES, Scene, scene_generator

TEMPLATES = (
    "There is a {}.",
    "The picture shows a {}.",
    "Someone has put a {} in this scene.",
    "A {} is part of it.",
)
ANNOTATORS = 5
UNDECIDED = 0.02  # of pairs have no majority and the gold label "-", as in SNLI
LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Pair:
    """One premise and hypothesis in the terms of SNLI-VE."""

    premise: str
    hypothesis: str
    gold_label: str
    annotator_labels: tuple[str, ...]


def make_pairs(scene: Scene, seed: int) -> tuple[Pair, ...]:
    """Return three pairs: one true, two about things that are not to be seen.

    Half of the scenes have a box, so that each label comes about equally often.
    """
    rng = scene_generator(seed, scene.image_id, 3)
    absent = [name for name in NAMES if not scene.has(name)]
    names = [str(rng.choice([thing.name for thing in scene.things]))]
    names += [str(name) for name in rng.choice(absent, 2, replace=False)]
    captions = make_captions(scene)
    return tuple(
        _pair(scene, captions[int(rng.integers(len(captions)))], name, rng) for name in names
    )


def _pair(scene: Scene, premise: str, name: str, rng: np.random.Generator) -> Pair:
    unseen = "neutral" if scene.box else "contradiction"
    label = "entailment" if scene.has(name) else unseen
    hypothesis = TEMPLATES[rng.integers(len(TEMPLATES))].format(name)
    hypothesis = hypothesis.replace(" a orange", " an orange").replace("A orange", "An orange")
    if rng.random() < UNDECIDED:
        other = LABELS[(LABELS.index(label) + 1) % 3]
        third = LABELS[(LABELS.index(label) + 2) % 3]
        return Pair(premise, hypothesis, "-", (label, label, other, other, third))
    return Pair(premise, hypothesis, label, (label,) * ANNOTATORS)
