"""From the questions of a split to examples: its vocabulary, and its images in a store."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from ...base.errors import ClipfeatError
from ..examples import Examples
from ..text import SPECIAL, build_words, encode_tokens
from .answers import answer_classes, soft_scores
from .files import Split

# {split: the part of COCO that its images are named after}
COCO_SUBSETS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test2015"}


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model reads and the answers that it can give."""

    words: tuple[str, ...]  # token 2 is the first
    answers: tuple[str, ...]  # normalised

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding and the unknown word among them."""
        return len(self.words) + SPECIAL


def build_vocabulary(split: Split, *, min_answer_count: int) -> Vocabulary:
    """Return the words and the answers of a training split.

    Raises ClipfeatError where no answer is common enough to be learned.
    """
    annotations = (split.annotations or {}).values()
    common = [annotation.multiple_choice_answer for annotation in annotations]
    answers = answer_classes(common, min_count=min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of split {split.name!r} occurs {min_answer_count} times in its "
            f"{len(common)} questions; pass --set min_answer_count=1"
        )
    return Vocabulary(build_words(question.text for question in split.questions), answers)


def store_ids(image_ids: Sequence[int | str], split: str, store: Container[str]) -> list[str]:
    """Return the store's id of each image id: itself, or the name that COCO gives its file.

    Raises ClipfeatError that counts and names the images without features.
    """
    found = {}
    missing = []
    for image_id in dict.fromkeys(image_ids):
        stored = next((name for name in id_candidates(image_id, split) if name in store), None)
        if stored is None:
            missing.append(image_id)
        else:
            found[image_id] = stored
    if missing:
        questions = sum(image_id not in found for image_id in image_ids)
        raise ClipfeatError(
            f"{questions} of {len(image_ids)} questions of split {split!r} ask about "
            f"{len(missing)} images that have no features, such as "
            f"{', '.join(' or '.join(id_candidates(i, split)[:2]) for i in missing[:3])}; "
            "extract these images into the store, or drop the questions"
        )
    return [found[image_id] for image_id in image_ids]


def id_candidates(image_id: int | str, split: str) -> list[str]:
    """Return the ids under which a store may hold an image, the likeliest first.

    >>> id_candidates(42, "val")
    ['42', 'COCO_val2014_000000000042', '000000000042']
    """
    if isinstance(image_id, str):
        return [image_id]
    # A split of one's own may draw on any part of COCO.
    subsets = [COCO_SUBSETS[split]] if split in COCO_SUBSETS else sorted(set(COCO_SUBSETS.values()))
    digits = f"{image_id:012}"
    return [str(image_id), *(f"COCO_{subset}_{digits}" for subset in subsets), digits]


def encode(
    split: Split, vocabulary: Vocabulary, store: Container[str], *, max_tokens: int
) -> Examples:
    """Return the split's questions as numbers, each with its image's id in `store`."""
    questions = split.questions
    ids = store_ids([question.image_id for question in questions], split.name, store)
    image_ids, image_of_text = np.unique(np.array(ids), return_inverse=True)
    annotations = split.annotations or {}
    answers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    return Examples(
        ids=tuple(question.question_id for question in questions),
        image_ids=tuple(image_ids.tolist()),
        image_of_text=image_of_text,
        tokens=encode_tokens([q.text for q in questions], vocabulary.words, max_tokens=max_tokens),
        targets=tuple(
            {
                answers[answer]: score
                for answer, score in soft_scores(annotations[q.question_id].answers).items()
                if answer in answers
            }
            for q in questions
            if q.question_id in annotations
        ),
    )
