"""From the questions of a split to batches of tensors."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ...base.errors import ClipfeatError
from ...featstore import FeatureStore
from .answers import answer_classes, soft_scores
from .files import Split

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
PADDING, UNKNOWN = 0, 1  # the first two tokens
# {split: the part of COCO that its images are named after}
COCO_SUBSETS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test2015"}
MIN_WORD_COUNT = 2  # words met once stand in for all the words never met: they train UNKNOWN


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model reads and the answers that it can give."""

    words: tuple[str, ...]  # token 2 is the first
    answers: tuple[str, ...]  # normalised

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding and the unknown word among them."""
        return len(self.words) + 2


class VqaBatch(NamedTuple):
    """Some questions, and the images that they ask about, each once."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    grid_shapes: Int[Tensor, "image 2"]
    image_of_question: Int[Tensor, " question"]
    tokens: Int[Tensor, "question token"]
    targets: Float32[Tensor, "question answer"]

    def to(self, device: torch.device) -> "VqaBatch":
        """Return the batch with its tensors on `device`."""
        return VqaBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All but the targets, in the order in which a model takes them."""
        return self[:-1]


@dataclass(frozen=True)
class Examples:
    """The questions of a split as numbers."""

    question_ids: tuple[int, ...]
    image_ids: tuple[str, ...]  # of the store, each once
    image_of_question: Int[np.ndarray, " question"]  # positions in image_ids
    tokens: Int[np.ndarray, "question token"]
    targets: tuple[dict[int, float], ...]  # {answer: soft score}; empty without annotations

    def __len__(self) -> int:
        return len(self.question_ids)


def tokenize(text: str) -> list[str]:
    """Return the words of a question.

    >>> tokenize("What's left of the 2 red squares?")
    ["what's", 'left', 'of', 'the', '2', 'red', 'squares']
    """
    return WORD.findall(text.lower())


def build_vocabulary(split: Split, *, min_answer_count: int) -> Vocabulary:
    """Return the words and the answers of a training split.

    Raises ClipfeatError where no answer is common enough to be learned.
    """
    counts = Counter(word for question in split.questions for word in tokenize(question.text))
    words = sorted(word for word, count in counts.items() if count >= MIN_WORD_COUNT)
    annotations = (split.annotations or {}).values()
    common = [annotation.multiple_choice_answer for annotation in annotations]
    answers = answer_classes(common, min_count=min_answer_count)
    if not answers:
        raise ClipfeatError(
            f"no answer of split {split.name!r} occurs {min_answer_count} times in its "
            f"{len(common)} questions; pass --set min_answer_count=1"
        )
    return Vocabulary(tuple(words), answers)


def encode_tokens(
    texts: Iterable[str], vocabulary: Vocabulary, *, max_tokens: int
) -> Int[np.ndarray, "question token"]:
    """Return the tokens of each question, padded on the right; a question has one at least."""
    numbers = {word: number for number, word in enumerate(vocabulary.words, start=2)}
    rows = [[numbers.get(word, UNKNOWN) for word in tokenize(text)][:max_tokens] for text in texts]
    tokens = np.full((len(rows), max_tokens), PADDING)
    for row, words in zip(tokens, rows, strict=True):
        row[: len(words) or 1] = words or UNKNOWN
    return tokens


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
    image_ids, image_of_question = np.unique(np.array(ids), return_inverse=True)
    annotations = split.annotations or {}
    answers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    return Examples(
        question_ids=tuple(question.question_id for question in questions),
        image_ids=tuple(image_ids.tolist()),
        image_of_question=image_of_question,
        tokens=encode_tokens([q.text for q in questions], vocabulary, max_tokens=max_tokens),
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


def read_batch(
    store: FeatureStore, examples: Examples, numbers: Int[np.ndarray, " question"], *, answers: int
) -> VqaBatch:
    """Return the questions at `numbers`; each image's record is read once.

    `answers` is the number of answer classes. Targets are zeros where nothing is annotated.
    """
    images, image_of_question = np.unique(examples.image_of_question[numbers], return_inverse=True)
    records = store.read([examples.image_ids[image] for image in images])
    tokens = examples.tokens[numbers]
    longest = int((tokens != PADDING).sum(axis=1).max())
    targets = torch.zeros(len(numbers), answers)
    if examples.targets:
        for row, number in enumerate(numbers):
            for answer, score in examples.targets[number].items():
                targets[row, answer] = score
    return VqaBatch(
        features=torch.from_numpy(records.features),
        mask=torch.from_numpy(records.mask),
        grid_shapes=torch.from_numpy(records.grid_shapes),
        image_of_question=torch.from_numpy(image_of_question),
        tokens=torch.from_numpy(tokens[:, :longest]),
        targets=targets,
    )
