"""Captions, statements and questions about a scene, like those that people wrote for photos."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .scenes import COLORS, NAMES, SHAPES, Scene, Thing, scene_generator

NUMBERS = ("no", "one", "two", "three", "four")
ROWS, COLS = ("top", "", "bottom"), ("left", "", "right")
TEMPLATES = (
    "there is {}.",
    "the picture shows {}.",
    "someone has put {} in this scene.",
    "{} is part of it.",
)
JUDGES = 5
UNDECIDED = 0.02  # of pairs have no majority and the gold label "-", as in SNLI
LABELS = ("entailment", "neutral", "contradiction")
ANNOTATORS = 10
# Each annotator errs with this chance, and at most three of ten do: the majority is right.
ERROR_RATE, MAX_ERRORS = 0.06, 3
CLEARLY = 0.15  # of the picture's side: the least difference in position that is asked about
# What an annotator says by mistake.
MISTAKES = {
    "red": "orange", "orange": "red", "blue": "purple", "purple": "blue", "green": "blue",
    "yellow": "orange", "white": "gray", "black": "dark",
    "circle": "ball", "square": "rectangle", "triangle": "cone", "star": "flower",
    "big": "large", "small": "tiny", "yes": "no", "no": "yes",
    "0": "none", "1": "2", "2": "3", "3": "2", "4": "3",
}  # fmt: skip
assert MISTAKES.keys() >= {*COLORS, *SHAPES}, "every answer needs a mistake"


def make_captions(scene: Scene) -> tuple[str, ...]:
    """Return five captions, from the most to the least precise."""
    things = scene.things
    count = NUMBERS[len(things)]
    shapes = "shape" if len(things) == 1 else "shapes"
    box = [" and a closed gray box", " next to a closed gray box"] if scene.box else ["", ""]
    first, last = things[0], things[-1]
    relation = f"{_a(first.name)} {_relation(first, last)} {_a(last.name)}"
    if len(things) == 1:
        relation = f"just {_a(first.name)} and nothing else of color"
    return tuple(
        _capitalized(text) + "."
        for text in (
            _list([f"{_a(f'{t.size} {t.name}')} {_where(t)}" for t in things]) + box[0],
            f"a picture of {_list([_a(t.name) for t in things])}",
            relation + box[1],
            f"there {'is' if len(things) == 1 else 'are'} {count} {shapes} on a gray background",
            f"{count} colored {shapes}{box[0]}",
        )
    )


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _a(name: str) -> str:
    """Return a name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _list(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _where(thing: Thing) -> str:
    place = f"{ROWS[thing.row]} {COLS[thing.col]}".strip()
    return f"at the {place}" if place else "in the middle"


def _relation(one: Thing, other: Thing) -> str:
    dx, dy = other.x - one.x, other.y - one.y
    if abs(dx) >= abs(dy):
        return "to the left of" if dx > 0 else "to the right of"
    return "above" if dy > 0 else "below"


@dataclass(frozen=True)
class Pair:
    """One premise and hypothesis in the terms of SNLI-VE."""

    premise: str
    hypothesis: str
    gold_label: str
    annotator_labels: tuple[str, ...]


def make_pairs(scene: Scene, seed: int) -> tuple[Pair, ...]:
    """Return three pairs: one true, two about things that are not visible.

    Half of the scenes have a box, so that the three labels are about equally frequent.
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
    hypothesis = _capitalized(TEMPLATES[rng.integers(len(TEMPLATES))].format(_a(name)))
    if rng.random() < UNDECIDED:
        other = LABELS[(LABELS.index(label) + 1) % 3]
        third = LABELS[(LABELS.index(label) + 2) % 3]
        return Pair(premise, hypothesis, "-", (label, label, other, other, third))
    return Pair(premise, hypothesis, label, (label,) * JUDGES)


@dataclass(frozen=True)
class Question:
    """One question in the terms of VQA v2."""

    text: str
    answer: str
    question_type: str  # the words it begins with
    answer_type: str  # yes/no, number or other
    answers: tuple[str, ...]  # of the ten annotators


AnsweredText = tuple[str, str, str, str]  # text, answer, question type, answer type


def make_questions(scene: Scene, seed: int) -> tuple[Question, ...]:
    """Return four or five questions about a scene, each answered by ten annotators.

    The right answer depends on the picture: over many scenes the answers to one text are evenly
    distributed, so that a model without the picture is little better than chance.
    """
    rng = scene_generator(seed, scene.image_id, 2)
    askers: list[Callable[[Scene, np.random.Generator], AnsweredText | None]] = [
        _color_of_shape,
        _shape_of_color,
        _color_at_end,
        _is_there if rng.random() < 0.5 else _is_left_of,
        _how_many if rng.random() < 0.6 else _how_big,
    ]
    answered = [ask(scene, rng) for ask in askers]
    return tuple(
        Question(text, answer, question_type, answer_type, _annotate(answer, rng))
        for text, answer, question_type, answer_type in filter(None, answered)
    )


def _annotate(answer: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Return ten answers, most of them `answer`."""
    errors = min(MAX_ERRORS, int(rng.binomial(ANNOTATORS, ERROR_RATE)))
    answers = [MISTAKES[answer]] * errors + [answer] * (ANNOTATORS - errors)
    return tuple(str(each) for each in rng.permutation(answers))


def _pick(things: list[Thing], rng: np.random.Generator) -> Thing | None:
    return things[rng.integers(len(things))] if things else None


def _color_of_shape(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    counts = Counter(thing.shape for thing in scene.things)
    thing = _pick([t for t in scene.things if counts[t.shape] == 1], rng)
    if thing is None:
        return None
    return f"What color is the {thing.shape}?", thing.color, "what color is the", "other"


def _shape_of_color(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    thing = _pick(list(scene.things), rng)
    if thing is None:
        return None
    return f"What shape is the {thing.color} object?", thing.shape, "what shape is the", "other"


def _color_at_end(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    """Ask about the thing that is clearly closest to one side."""
    ends = []
    for side, position in (
        ("on the left", lambda t: t.x),
        ("on the right", lambda t: -t.x),
        ("at the top", lambda t: t.y),
        ("at the bottom", lambda t: -t.y),
    ):
        first, *rest = sorted(scene.things, key=position)
        if rest and position(rest[0]) - position(first) >= CLEARLY:
            ends.append((side, first.color))
    if not ends:
        return None
    side, color = ends[rng.integers(len(ends))]
    return f"What color is the object {side}?", color, "what color is the", "other"


def _is_there(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    """Half of the answers are yes; otherwise the color and the shape are random."""
    yes = rng.random() < 0.5
    name = str(rng.choice([n for n in NAMES if scene.has(n) == yes]))
    return f"Is there {_a(name)}?", "yes" if yes else "no", "is there a", "yes/no"


def _is_left_of(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    pairs = [
        (one, other)
        for one in scene.things
        for other in scene.things
        if abs(one.x - other.x) >= CLEARLY
    ]
    if not pairs:
        return None
    one, other = pairs[rng.integers(len(pairs))]
    text = f"Is the {one.name} to the left of the {other.name}?"
    return text, "yes" if one.x < other.x else "no", "is the", "yes/no"


def _how_many(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    if rng.random() < 0.5:
        return "How many shapes are there?", str(len(scene.things)), "how many", "number"
    shape = str(rng.choice(SHAPES))
    count = sum(thing.shape == shape for thing in scene.things)
    return f"How many {shape}s are there?", str(count), "how many", "number"


def _how_big(scene: Scene, rng: np.random.Generator) -> AnsweredText | None:
    thing = _pick(list(scene.things), rng)
    if thing is None:
        return None
    return f"Is the {thing.color} object big or small?", thing.size, "is the", "other"
