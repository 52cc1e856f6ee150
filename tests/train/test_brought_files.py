"""Text files of users: a byte-order mark is not part of them, and all are read within bounds."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from refused import refuses

from clipfeat.base.errors import ClipfeatError
from clipfeat.train.data.caption_files import read_references, read_results
from clipfeat.train.data.caption_vocabulary import read_caption_vocabulary
from clipfeat.train.data.captions import read_captions, read_image_list
from clipfeat.train.data.corpus_sources import read_held_out
from clipfeat.train.data.lxmert import read_sentences
from clipfeat.train.data.questions import read_predictions
from clipfeat.train.data.snli_ve import read_labels, read_pairs
from clipfeat.train.data.vocabulary import (
    SPECIAL_PIECES,
    read_answer_list,
    read_pieces,
    read_vocabulary,
)
from clipfeat.train.data.vqa_files import read_question_files

MARK = b"\xef\xbb\xbf"
PAIR = {"Flickr30K_ID": "1", "pairID": "a", "sentence2": "Été.", "gold_label": "neutral"}
GQA = {
    "1": {
        **{"question": "Why?", "imageId": "2", "answer": "café", "isBalanced": True},
        "types": {"structural": "query", "semantic": "attr"},
    }
}
QUESTIONS = {"questions": [{"question_id": 1, "image_id": 2, "question": "Où?"}]}
KARPATHY = {"cocoid": 1, "filename": "1.jpg", "split": "test", "sentences": [{"raw": "Un café."}]}
COCO = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "Un café."}]}


def of_gqa(path: Path) -> Any:
    """Read predictions of the questions above."""
    questions = path.with_name("q.json")
    questions.write_text(json.dumps(GQA))
    return read_predictions(path, read_question_files(questions, None))


def of_pairs(path: Path) -> Any:
    """Read labels of the pair above."""
    path.with_name("snli_ve_other.jsonl").write_text(json.dumps(PAIR))
    return read_labels(path, read_pairs("snli_ve", path.parent, "other"))


READ: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "answers.json": ('["été", "yes"]', read_answer_list),
    "answers.txt": ("été\nyes\n", read_answer_list),
    "vocab.txt": ("\n".join((*SPECIAL_PIECES, "é")), read_pieces),
    "held_out.txt": ("42\nCOCO_val2014_000000000043\n", read_held_out),
    "held_out.json": ('[{"img_id": "42"}]', read_held_out),
    "gqa.json": (json.dumps(GQA), lambda path: read_question_files(path, None)),
    "predictions.json": ('[{"questionId": "1", "prediction": "café"}]', of_gqa),
    "snli_ve_dev.jsonl": (
        json.dumps(PAIR, ensure_ascii=False),
        lambda path: read_pairs("snli_ve", path.parent, "dev"),
    ),
    "labels.jsonl": ('{"pairID": "a", "prediction": "neutral"}', of_pairs),
    "results.json": ('[{"image_id": 1, "caption": "Un café."}]', read_results),
    "references.json": ('{"1": ["Un café."]}', read_references),
    "dataset_coco.json": (
        json.dumps({"images": [KARPATHY]}, ensure_ascii=False),
        lambda path: read_captions("karpathy_coco", path.parent, "test", training=False),
    ),
    "captions_val2014.json": (
        json.dumps(COCO, ensure_ascii=False),
        lambda path: read_captions("coco", path.parent, "val", training=False),
    ),
    "images.json": (json.dumps({"images": [{"id": 1}]}), read_image_list),
    "corpus.json": (
        '[{"img_id": "1", "sentf": {"a": ["Un café."]}}]',
        lambda path: list(read_sentences(path)),
    ),
    "vocabulary.json": ('{"words": ["été"], "answers": ["oui"]}', read_vocabulary),
    "words.json": ('{"kind": "words", "words": ["été"]}', read_caption_vocabulary),
}


@pytest.mark.parametrize("name", READ)
def test_a_byte_order_mark_is_not_part_of_a_file(tmp_path: Path, name: str) -> None:
    text, read = READ[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    found = read(path)
    path.write_bytes(MARK + text.encode())
    assert read(path) == found
    path.write_bytes(MARK + text.replace("\n", "\r\n").encode())
    assert read(path) == found


@pytest.mark.parametrize("name", READ)
def test_every_file_is_read_within_bounds(tmp_path: Path, name: str) -> None:
    """A hole of 100 GB, a pipe that nobody writes into, and a device that never ends."""
    _, read = READ[name]
    path = tmp_path / name
    path.write_bytes(b"")
    os.truncate(path, 100 << 30)
    refuse(read, path)
    path.unlink()
    os.mkfifo(path)
    refuse(read, path)
    path.unlink()
    path.symlink_to("/dev/zero")
    refuse(read, path)


def refuse(read: Callable[[Path], Any], path: Path) -> None:
    """Assert that a file is unreadable or, in a data set's folder, counts as missing."""
    with pytest.raises(ClipfeatError) as refused:
        read(path)
    lacking = refused.value.code == "E-DATA-FILE" and path.name in str(refused.value)
    assert refused.value.code.endswith("-READ") or (lacking and not path.is_file())


def test_questions_and_annotations_may_begin_with_a_mark(tmp_path: Path) -> None:
    answers = [{"answer": "été"}] * 10
    record = {"question_id": 1, "answers": answers, "multiple_choice_answer": "été"}
    record |= {"answer_type": "other", "question_type": "où"}
    contents = (QUESTIONS, {"annotations": [record]})
    paths = [tmp_path / name for name in ("q.json", "a.json")]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(MARK + json.dumps(content, ensure_ascii=False).encode())
    split = read_question_files(*paths)
    assert split.ids == (1,)
    assert split.score({1: "été"})["overall"] == 100


@pytest.mark.parametrize(("annotators", "score"), [(1, 0), (2, 33.33), (3, 66.67), (4, 100)])
def test_few_annotators_are_scored_as_published_and_reported(
    tmp_path: Path, annotators: int, score: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published script compares each annotator with the others, of whom 3 must agree."""
    record = {"question_id": 1, "answers": [{"answer": "red"}] * annotators}
    record |= {"answer_type": "other", "question_type": "what"}
    paths = [tmp_path / name for name in ("q.json", "a.json")]
    for path, content in zip(paths, (QUESTIONS, {"annotations": [record]}), strict=True):
        path.write_text(json.dumps(content))
    assert read_question_files(*paths).score({1: "red"})["overall"] == score
    told = "1 of 1 questions have fewer than 4 answers; what all n annotators said scores (n-1)/3"
    assert (told in capsys.readouterr().err) == (annotators < 4)
    paths[1].write_text(json.dumps({"annotations": [record | {"answers": []}]}))
    with refuses("E-VQA-ANSWERS", "annotations[0]"):
        read_question_files(*paths)


def test_the_empty_answer_of_a_json_list_is_an_answer(tmp_path: Path) -> None:
    """LXMERT's trainval_label2ans.json begins with it, and has 3,129 answers with it."""
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(["", *map(str, range(3128))]))
    assert len(read_answer_list(path)) == 3129
    path.write_text("<unk>\n\nyes\n  \n")  # a line is blank by chance
    assert read_answer_list(path) == ("yes",)
    path.write_bytes("a\u2028b\r\nyes".encode())  # a line ends in LF or CR LF alone
    assert read_answer_list(path) == ("a\u2028b", "yes")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the position of each value of a JSON text."""
    yield at
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield from places(value[key], (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another value at one position."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


STRANGE = (10**4000, math.inf, math.nan, True, None, [], {}, "", "\ud800", -1, 1.5, [{}])
BROKEN = (b"[" * 200_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff", b"[1,", b"")


@pytest.mark.parametrize("name", [name for name in READ if not name.endswith(".txt")])
def test_whatever_is_in_a_file_costs_one_line(tmp_path: Path, name: str) -> None:
    """Huge numbers, deep nesting, bad bytes and every other value at every position."""
    text, read = READ[name]
    path, value = tmp_path / name, json.loads(text)
    strange = (replaced(value, at, new) for at in places(value) for new in STRANGE)
    for content in (*map(str.encode, map(json.dumps, strange)), *BROKEN):
        path.write_bytes(content)
        try:
            read(path)
        except ClipfeatError as error:
            told = str(error)
            assert "\n" not in told
            assert str(path) in told or told.startswith("split '")
            assert told.count(str(path)) <= 1
    path.write_text(text)
    read(path)
