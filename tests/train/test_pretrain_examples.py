"""Batches of a tiny corpus, traced back to its texts, answers and the store's cells."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_store
from test_pretrain_masking import share_is

from clipfeat.base.errors import ClipfeatError
from clipfeat.featstore import FeatureStore
from clipfeat.train.data.lxmert import Sentence
from clipfeat.train.data.vocabulary import SPECIAL_PIECES, WordPieces
from clipfeat.train.records import RecordReader
from clipfeat.train.tasks.answering import SoftAnswers
from clipfeat.train.tasks.pretraining.examples import (
    BatchReader,
    Corpus,
    PretrainBatch,
    encode,
    select_answers,
)
from clipfeat.train.tasks.settings import ObjectiveSettings, PretrainSettings

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = WordPieces((*SPECIAL_PIECES, *".!?", *LETTERS, *(f"##{letter}" for letter in LETTERS)))
UNK, CLS, SEP, MASK = (WORDS.number(piece) for piece in ("[UNK]", "[CLS]", "[SEP]", "[MASK]"))
IMAGES, DIM, WIDTH = 60, 3, 12
SHAPES = ((2, 3), (3, 3), (1, 2))
ALL = ObjectiveSettings(answers=1.0, cells=1.0)
SETTINGS = PretrainSettings(sampled_cells=4, max_tokens=WIDTH, objectives=ALL)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    records = {
        str(i): random.normal(size=(*SHAPES[i % 3], DIM)).astype(np.float16) for i in range(IMAGES)
    }
    return make_store(tmp_path_factory.mktemp("store") / "a.clipfeat", records)


@pytest.fixture(scope="module")
def store(path: Path) -> FeatureStore:
    return FeatureStore.open(path)


def corpus_of(texts: dict[str, list[tuple[str, dict[str, float] | None]]]) -> Corpus:
    corpus = Corpus()
    for image_id, sentences in texts.items():
        for text, answers in sentences:
            corpus.add(Sentence(image_id, text, "vqa", answers))
    return corpus


def reader_of(
    store: FeatureStore, corpus: Corpus, settings: PretrainSettings = SETTINGS, **how: Any
) -> BatchReader:
    sentences = encode(
        corpus,
        "tiny",
        store,
        **{"words": WORDS, "answers": ("yes", "no"), "max_tokens": WIDTH, "skip_missing": 0} | how,
    )
    reader = RecordReader(store, torch.device("cpu"))
    return BatchReader(reader, sentences, WORDS, settings, settings.sampled_cells)


def distinct() -> Corpus:
    """Five texts an image, all different; the fifth is a question."""
    random = np.random.default_rng(0)
    return corpus_of({
        str(i): [
            (f"{''.join(random.choice(list(LETTERS), 8))} {i} é", None if n < 4 else {"yes": 1.0})
            for n in range(5)
        ]
        for i in range(IMAGES)
    })  # fmt: skip


def read_all(reader: BatchReader, epoch: int = 0, size: int = 50) -> list[PretrainBatch]:
    order = np.random.default_rng(epoch).permutation(len(reader.sentences))
    return [reader.read(part, epoch) for part in np.array_split(order, len(order) // size)]


def texts_of(batch: PretrainBatch) -> np.ndarray:
    """Return the tokens before masking."""
    tokens = batch.tokens.clone()
    tokens.view(-1)[batch.masked] = batch.pieces.to(tokens.dtype)
    return np.pad(tokens.numpy(), ((0, 0), (0, WIDTH - tokens.shape[1])))


def example(batch: PretrainBatch, text: int) -> tuple[Any, ...]:
    """Return all that a batch has of one text and its image, less padding."""
    width, image = batch.tokens.shape[1], int(batch.image_of_text[text])
    of_text, real = batch.masked // width == text, batch.mask[image]
    return (
        batch.tokens[text][batch.tokens[text] > 0].tolist(),
        (batch.masked[of_text] % width).tolist(),
        batch.pieces[of_text].tolist(),
        float(batch.matched[text]),
        int(batch.answers[text]),
        batch.features[image][real].tolist(),
        batch.places[image][real].tolist(),
        batch.hidden[image][real].tolist(),
    )


def test_shares_over_an_epoch(store: FeatureStore) -> None:
    batches = read_all(reader_of(store, distinct())) + read_all(reader_of(store, distinct()), 1)
    texts = np.concatenate([texts_of(batch) for batch in batches])
    pieces = torch.cat([batch.pieces for batch in batches])
    assert share_is(0.15, (texts > MASK).sum(), len(pieces))
    assert not set(pieces.tolist()) & set(range(len(SPECIAL_PIECES)))
    now = torch.cat([batch.tokens.flatten()[batch.masked] for batch in batches])
    random_hits = 0.1 / (WORDS.size - 1)
    assert share_is(0.8 + random_hits, len(pieces), int((now == MASK).sum()))
    assert share_is(0.1 + random_hits, len(pieces), int((now == pieces).sum()))
    matched = torch.cat([batch.matched for batch in batches])
    assert share_is(0.5, len(matched), int(matched.sum()))
    hidden = torch.cat([batch.hidden[batch.mask] for batch in batches])
    assert share_is(0.15, len(hidden), int(hidden.sum()))


def test_every_example_is_a_text_of_the_corpus_with_its_image(store: FeatureStore) -> None:
    corpus = distinct()
    reader = reader_of(store, corpus)
    encoded = [tuple(row) for row in WORDS.encode(corpus.texts, max_tokens=WIDTH).tolist()]
    assert len(set(encoded)) == 5 * IMAGES
    own = {
        str(i): {encoded[5 * i + n] for n in range(5)} for i in range(IMAGES)
    }  # the corpus has five texts an image, in order
    seen = set()
    for numbers in np.array_split(np.arange(len(encoded)), 5):
        batch = reader.read(numbers, 0)
        images = sorted({int(n) // 5 for n in numbers})
        for text, tokens in enumerate(map(tuple, texts_of(batch).tolist())):
            image = str(images[batch.image_of_text[text]])
            assert image == str(numbers[text] // 5)
            assert tokens in encoded
            assert (tokens in own[image]) == bool(batch.matched[text])
            if batch.matched[text]:
                assert tokens == encoded[numbers[text]]
            question = numbers[text] % 5 == 4
            assert batch.answers[text] == (0 if question and batch.matched[text] else -1)
            seen.add(tokens)
        longest = max(np.count_nonzero(row) for row in texts_of(batch))
        assert batch.tokens.shape[1] == longest
    assert len(seen) > 3 * IMAGES


def test_cells_are_those_of_the_store(store: FeatureStore) -> None:
    corpus = distinct()
    reader = reader_of(store, corpus)
    batch = reader.read(np.arange(0, 5 * IMAGES, 5), 0)
    for image in range(IMAGES):
        grid, real = store[str(image)], batch.mask[image]
        rows, cols = SHAPES[image % 3]
        assert real.sum() == min(4, rows * cols)
        row, col = batch.places[image][real].unbind(-1)
        assert np.array_equal(batch.features[image][real].numpy(), grid[row, col])
        cells = (row * cols + col).tolist()
        assert cells == sorted(set(cells))
        assert not batch.hidden[image][~real].any()
    whole = dataclasses.replace(reader, sampled_cells=0).read(np.array([5]), 0)
    assert whole.features[0].tolist() == store["1"].reshape(9, DIM).tolist()
    assert whole.places[0].tolist() == [[row, col] for row in range(3) for col in range(3)]


def test_what_is_not_sampled_is_not_in_a_batch(store: FeatureStore, tmp_path: Path) -> None:
    corpus = distinct()
    batch = reader_of(store, corpus).read(np.arange(20), 0)
    records = {str(i): np.full((*SHAPES[i % 3], DIM), 6e4, np.float16) for i in range(IMAGES)}
    for image in range(4):  # of 20 sentences
        row, col = batch.places[image][batch.mask[image]].unbind(-1)
        records[str(image)][row, col] = store[str(image)][row, col]
    other = FeatureStore.open(make_store(tmp_path / "b.clipfeat", records))
    again = reader_of(other, corpus).read(np.arange(20), 0)
    for text in range(20):
        assert example(again, text) == example(batch, text)


def test_an_example_is_the_same_in_any_company(store: FeatureStore) -> None:
    reader = reader_of(store, distinct())
    numbers = np.random.default_rng(5).permutation(5 * IMAGES)[:40]
    whole = reader.read(numbers, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, reader.read(numbers, 3), strict=True))
    again = reader_of(store, distinct())  # another process
    for size in (1, 7):
        for start in range(0, 40, size):
            part = again.read(numbers[start : start + size], 3)
            for text in range(len(part.matched)):
                assert example(part, text) == example(whole, start + text)


def test_another_epoch_and_another_seed_give_other_examples(store: FeatureStore) -> None:
    reader = reader_of(store, distinct())
    seeded = dataclasses.replace(reader, settings=dataclasses.replace(SETTINGS, seed=1))
    first = reader.read(np.arange(60), 0)
    for other in (reader.read(np.arange(60), 1), seeded.read(np.arange(60), 0)):
        for name in ("matched", "masked", "places"):
            assert not torch.equal(getattr(first, name), getattr(other, name)), name


SHARED = ("a photo", "A Photo", "a photo.", "A PHOTO!!", "? a... photo", "à phótô")


def plain(text: str) -> str:
    accents = text.lower().translate(str.maketrans("àóô", "aoo"))
    return " ".join(re.findall("[a-z0-9]+", accents))


def test_a_replacement_never_says_what_one_of_the_images_own_texts_does(
    store: FeatureStore,
) -> None:
    """Each image has one spelling of a text that all share, twice, and two texts of its own."""
    corpus = corpus_of({
        str(i): [
            *((SHARED[i % 6], None), (SHARED[i % 6], None)),
            *((f"thing {i}", None), (f"thing {i}?", None)),
        ]
        for i in range(IMAGES)
    })  # fmt: skip
    reader = reader_of(store, corpus)
    said = {
        tuple(row): plain(text)
        for row, text in zip(
            WORDS.encode(corpus.texts, max_tokens=WIDTH).tolist(), corpus.texts, strict=True
        )
    }
    replaced = 0
    for epoch in range(10):
        numbers = np.arange(4 * IMAGES)
        batch = reader.read(numbers, epoch)
        for text, tokens in enumerate(map(tuple, texts_of(batch).tolist())):
            own = {"a photo", f"thing {numbers[text] // 4}"}
            assert (said[tokens] in own) == bool(batch.matched[text])
            replaced += not batch.matched[text]
    # Half are to be, unless all 8 candidates are the image's own, of which 122 of 240 texts are.
    assert share_is(0.5 * (1 - (122 / 240) ** 8), 40 * IMAGES, replaced)


def test_where_images_share_all_texts_none_is_replaced(store: FeatureStore) -> None:
    corpus = corpus_of({str(i): [("Same.", None), ("same", None)] for i in range(IMAGES)})
    assert reader_of(store, corpus).read(np.arange(2 * IMAGES), 0).matched.all()


@pytest.mark.parametrize("off", ["words", "matching", "cells"])
def test_an_objective_that_does_not_count_hides_nothing(store: FeatureStore, off: str) -> None:
    objectives = dataclasses.replace(ALL, **{off: 0.0})
    settings = dataclasses.replace(SETTINGS, objectives=objectives)
    batch = reader_of(store, distinct(), settings).read(np.arange(5 * IMAGES), 0)
    asked = {
        "words": len(batch.masked),
        "matching": int((batch.matched == 0).sum()),
        "cells": int(batch.hidden.sum()),
    }
    assert [name for name, count in asked.items() if count == 0] == [off]


SCORED = {
    "0": [("who?", {"no": 0.3, "maybe": 0.9, "yes": 1.0, "zero": 0.0}), ("caption", None)],
    "1": [("left out", {"yes": 0.5})],
    "2": [("what?", {"maybe": 1.0}), ("why?", {}), ("how?", {"zero": 0.2, "no": 0.6, "yes": 0.0})],
}


@pytest.fixture
def answers() -> SoftAnswers:
    """The answers of all sentences but the third one."""
    kept = np.array([True, True, False, True, True, True])
    return select_answers(corpus_of(SCORED), ("yes", "no", "zero"), kept)


def drawn(answers: SoftAnswers, sentence: int, times: int = 1300) -> np.ndarray:
    """Return the shares of the classes, and of none, drawn with evenly spaced chances."""
    evenly = (np.arange(times) + 0.5) / times
    found = answers.draw(np.full(times, sentence), evenly)
    return np.bincount(found + 1, minlength=4) / times


def test_answers_are_drawn_by_score_among_the_classes(answers: SoftAnswers) -> None:
    """Of yes 1.0, no 0.3 and zero 0.0: "maybe" is no class."""
    assert drawn(answers, 0) == pytest.approx([0, 1 / 1.3, 0.3 / 1.3, 0], abs=1e-3)
    assert drawn(answers, 4) == pytest.approx([0, 0, 0.75, 0.25], abs=1e-3)


def test_captions_and_questions_without_a_class_have_no_answer(answers: SoftAnswers) -> None:
    for sentence in (1, 2, 3):
        assert drawn(answers, sentence).tolist() == [1, 0, 0, 0]
    none = select_answers(corpus_of(SCORED), (), np.ones(6, dtype=bool))
    assert none.draw(np.arange(6), np.full(6, 0.5)).tolist() == [-1] * 6
    captions = select_answers(corpus_of({"0": [("a", None)]}), ("yes",), np.ones(1, dtype=bool))
    assert captions.draw(np.array([0]), np.array([0.9])).tolist() == [-1]


def test_the_ends_of_the_chances_draw_the_first_and_last_answer(answers: SoftAnswers) -> None:
    ends = np.array([0.0, np.nextafter(1.0, 0)])
    assert answers.draw(np.array([0, 0]), ends).tolist() == [1, 0]  # the order of the file
    assert answers.draw(np.array([4, 4]), ends).tolist() == [2, 1]


def test_classes_are_the_best_answers_of_enough_questions() -> None:
    corpus = corpus_of({
        "0": [("a", {"no": 0.3, "yes": 1.0}), ("b", {"red": 0.6, "no": 0.6}), ("c", None)],
        "1": [("d", {"yes": 0.9}), ("e", {"no": 1.0}), ("f", {"no": 1.0}), ("g", {})],
    })  # fmt: skip
    assert corpus.common_answers(min_count=1) == ("no", "yes", "red")
    assert corpus.common_answers(min_count=2) == ("no", "yes")
    assert corpus.common_answers(min_count=3) == ()


def test_sentences_about_images_without_features_are_left_out(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpus_of(SCORED | {"x": [("who is it?", {"no": 1.0}), ("gone", None)]})
    with pytest.raises(ClipfeatError, match=r"^2 of 8 sentences of corpus 'tiny' are about 1 imag"):
        reader_of(store, corpus, skip_missing=1)
    sentences = reader_of(store, corpus, skip_missing=2).sentences
    assert (len(sentences), sentences.image_ids) == (6, ("0", "1", "2"))
    assert sentences.answers.draw(np.arange(6), np.full(6, 0.0)).tolist() == [1, -1, 0, -1, -1, 1]
    assert capsys.readouterr().err.endswith("such as x or x.jpg; skipped\n")
    with refuses("E-IMAGES-NONE", "1 of 1 sentences of corpus 'tiny'"):
        reader_of(store, corpus_of({"x": [("a", None)]}), skip_missing=1)
