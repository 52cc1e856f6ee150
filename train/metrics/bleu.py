"""BLEU of instructions, as published speakers are selected by it."""

from collections.abc import Sequence

from pycocoevalcap.bleu.bleu_scorer import BleuScorer

MAX_N = 4


def corpus_bleu(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the BLEU-4 of texts, 0 to 1, each of which has references; words are between spaces.

    Papineni et al. 2002, over the corpus and without smoothing, but texts are to be as long as the
    shortest one of their references, not the nearest, as in the published code of EnvDrop. 0 for no
    text, and near 0 (less than 1e-3) where no four words in a row are right.
    """
    if not written:
        return 0.0
    scorer = BleuScorer(n=MAX_N)
    for text, of_text in zip(written, references, strict=True):
        scorer += (text, list(of_text))
    scores, _ = scorer.compute_score(option="shortest", verbose=0)
    return float(scores[-1])
