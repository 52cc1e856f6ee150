"""CIDEr-D as a reward: ours, pycocoevalcap's and the scorer that self-critical training uses.

python -m benchmarks.cider [--training 20000] [--rounds 15] [--peer FOLDER]

A batch is 64 images with 5 references and 5 captions each. All get the same tokens, the peers as
strings, so that no tokenizer is timed. pycocoevalcap takes document frequencies from the batch,
a caption counting as an image of its own. FOLDER is a clone of github.com/ruotianluo/cider, whose
CiderD takes those of the training set, as ours does; it needs the package six.
"""

import argparse
import contextlib
import importlib
import pickle
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from clipfeat.train.metrics.cider import CiderD, count_references, document_frequencies

IMAGES, CAPTIONS, REFERENCES = 64, 5, 5
WORDS = 9_487  # a vocabulary of COCO's captions
END = WORDS

Scorer = Callable[[], np.ndarray]
Captions = list[list[int]]


def make(images: int, seed: int) -> tuple[list[Captions], list[Captions]]:
    """Return references and captions by image: of 8 to 15 words, whose ranks are Zipf's.

    A reference and a caption have about two thirds of a text of their image.
    """
    rng = np.random.default_rng(seed)
    likely = 1 / np.arange(1, WORDS + 1)

    def sentences(count: int) -> np.ndarray:
        return rng.choice(WORDS, (images, count, 15), p=likely / likely.sum())

    text, both = sentences(1), sentences(REFERENCES + CAPTIONS)
    both = np.where(rng.random(both.shape) < 2 / 3, text, both)
    lengths = rng.integers(8, 16, both.shape[:2])
    cut = [
        [row[:length].tolist() for row, length in zip(rows, sizes, strict=True)]
        for rows, sizes in zip(both, lengths, strict=True)
    ]
    return [rows[:REFERENCES] for rows in cut], [rows[REFERENCES:] for rows in cut]


def text(words: list[int]) -> str:
    """Return token ids as the peers take them."""
    return " ".join(map(str, words))


def of_batch(references: list[Captions], captions: list[Captions]) -> tuple[Scorer, Scorer]:
    """Return ours and pycocoevalcap's, with document frequencies of the batch."""
    repeated = [own for own in references for _ in range(CAPTIONS)]
    flat = [caption for own in captions for caption in own]
    strings = [(text(c), [*map(text, own)]) for c, own in zip(flat, repeated, strict=True)]
    counted = count_references(repeated, end=END, end_is_word=False)
    cider = CiderD(counted, document_frequencies(counted))
    images = np.arange(len(flat))

    def theirs() -> np.ndarray:
        scorer = CiderScorer()
        for pair in strings:
            scorer += pair
        return scorer.compute_score()[1]

    return lambda: cider.scores(flat, images), theirs


def of_training(
    references: list[Captions], captions: list[Captions], folder: Path | None
) -> tuple[Scorer, Scorer | None]:
    """Return ours and CiderD of `folder`, with document frequencies of the training set."""
    start = time.perf_counter()
    counted = count_references(references, end=END, end_is_word=False)
    frequencies = document_frequencies(counted)
    cider = CiderD(counted, frequencies)
    seconds = time.perf_counter() - start
    held = sum(array.nbytes for array in counted if isinstance(array, np.ndarray)) / 1e6
    print(
        f"{len(references):,} images of training: {len(frequencies.ngrams):,} n-grams, counted in "
        f"{seconds:.1f} s, {held:.0f} MB of references"
    )
    flat = [caption for own in captions for caption in own]
    images = np.repeat(np.arange(IMAGES), CAPTIONS)
    if folder is None:
        return lambda: cider.scores(flat, images), None
    peer = _precomputed(folder, references)
    results = [
        {"image_id": image, "caption": [text(caption)]}
        for image, caption in zip(images, flat, strict=True)
    ]
    strings = {image: [*map(text, own)] for image, own in enumerate(references[:IMAGES])}
    return lambda: cider.scores(flat, images), lambda: peer.compute_score(strings, results)[1]


def _precomputed(folder: Path, references: list[Captions]) -> Any:
    """Return the peer's CiderD, which reads its document frequencies from ./data."""
    counts: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for own in references:
        lines = [text(words).split() for words in own]
        ngrams = {
            tuple(line[k : k + n])
            for line in lines
            for n in range(1, 5)
            for k in range(len(line) - n + 1)
        }
        for ngram in ngrams:
            counts[ngram] += 1
    sys.path.insert(0, str(folder.resolve()))
    module = importlib.import_module("pyciderevalcap.ciderD.ciderD")
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("data").mkdir()
        file = {"ref_len": len(references), "document_frequency": counts}
        Path("data/train.p").write_bytes(pickle.dumps(file))
        return module.CiderD(df="train")


def compare(name: str, ours: Scorer, theirs: Scorer, rounds: int) -> None:
    """Print the median times of both, turn by turn, and how far their scores are apart."""
    apart = np.abs(ours() - theirs()).max()
    times = np.empty((rounds, 2))
    for turn in times:
        for place, scorer in enumerate((ours, theirs)):
            start = time.perf_counter()
            scorer()
            turn[place] = time.perf_counter() - start
    mine, other = np.median(times, axis=0) * 1e3
    print(
        f"{name:<32} {other:8.1f} ms, ours {mine:6.2f} ms: {other / mine:5.1f} times as fast "
        f"(aim: 20), scores within {apart:.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=int, default=20_000, help="images")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer", type=Path, help="clone of github.com/ruotianluo/cider")
    options = parser.parse_args()
    references, captions = make(options.training, seed=0)
    ours, theirs = of_batch(references[:IMAGES], captions[:IMAGES])
    compare("pycocoevalcap, df of the batch", ours, theirs, options.rounds)
    ours, theirs = of_training(references, captions[:IMAGES], options.peer)
    if theirs is not None:
        compare("ciderD, df of training", ours, theirs, options.rounds)


if __name__ == "__main__":
    main()
