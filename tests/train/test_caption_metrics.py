"""Published caption scores: computed by hand, where Java fails, and where it is missing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pycocoevalcap.spice import spice
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.metrics import captions as score_module
from clipfeat.train.metrics.captions import format_scores, score, tokenize

RESULTS = {"1": "A dog on grass.", "2": "two men ride the big wave"}
REFERENCES = {"2": ["Two men ride the big wave!"], "1": ["a dog lies on grass"]}
FAILING = 'echo "Could not reserve enough space" >&2; exit 1'

Java = Callable[[str, str], None]


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Java:
    """Put a `java` first on the PATH that, for programs of a name, is a shell script."""

    def put(program: str, script: str) -> None:
        file = tmp_path / "bin" / "java"
        file.parent.mkdir()
        real = shutil.which("java")
        file.write_text(f'#!/bin/sh\ncase "$*" in *{program}*) {script};; esac\nexec {real} "$@"\n')
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent), prepend=":")

    return put


def programs() -> list[str]:
    """Return the names of the children that are Java or a shell, as `java` above is."""
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    return [name for name in names if name in ("java", "sh", "dash")]


@pytest.mark.slow
def test_scores_worked_by_hand(capfd: pytest.CaptureFixture[str]) -> None:
    result = score(RESULTS, REFERENCES)
    # Image 1: 4 of 4 words and 1 of 3 pairs; image 2: all. In all 10 words, 11 in the references.
    brevity = 2.718281828459045 ** (1 - 11 / 10)
    assert result["n"] == 2
    assert result["Bleu_1"] == pytest.approx(brevity, abs=1e-6)
    assert result["Bleu_2"] == pytest.approx(brevity * (7 / 8) ** 0.5, abs=1e-6)
    assert result["Bleu_3"] == pytest.approx(brevity * (7 / 8 * 4 / 6) ** (1 / 3), abs=1e-6)
    # Longest common subsequence of image 1: all 4 words, of 5 in the reference; beta is 1.2.
    assert result["ROUGE_L"] == pytest.approx((2.44 * 0.8 / (0.8 + 1.44) + 1) / 2, abs=1e-6)
    # No n-gram is in both, so every idf is ln 2: the cosines of image 1 are 4/sqrt(20), 2/sqrt(12).
    shorter = 2.718281828459045 ** (-1 / 72)
    cider = 10 / 4 * (4 / 20**0.5 + 2 / 12**0.5) * shorter
    assert result["CIDEr"] == pytest.approx((cider + 10) / 2, abs=1e-6)
    # Denkowski and Lavie 2014, equations 1 to 5: content words count .75, function words .25; of
    # 7 and 4 in the references 6 and 4 are matched, in 2 chunks of 10 words (a whole match is none).
    recall = (0.75 * 6 + 0.25 * 4) / (0.75 * 7 + 0.25 * 4)
    meteor = recall / (0.85 + 0.15 * recall) * (1 - 0.6 * (2 / 10) ** 0.2)
    assert result["METEOR"] == pytest.approx(meteor, abs=1e-6)
    assert list(result["left_out"]) == ["SPICE"]
    assert capfd.readouterr() == ("", "")
    assert programs() == []


def test_words_are_those_of_the_library() -> None:
    texts = {
        3: ["A man's T-shirt (red), $5 & 50%!", "café “quotes” -- don't; 1,000.5", "..."],
        1: ["", "tab\tand  spaces\n", "😀 a|b ||| c", "¿Dónde está? 東京 ½"],
        2: [" "],
    }
    wrapped = {key: [{"caption": text} for text in own] for key, own in texts.items()}
    assert tokenize(texts) == PTBTokenizer().tokenize(wrapped)


def test_no_line_end_moves_words_to_another_text() -> None:
    ends = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    found = tokenize({mark: [f"one{mark}two", "", "three"] for mark in ends})
    assert found == {mark: ["one two", "", "three"] for mark in ends}


def test_half_of_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert tokenize({0: ["one \ud800 two", "three"]}) == {0: ["one two", "three"]}


def test_scoring_needs_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refuses("E-JAVA-MISSING", "java", kind=UsageError):
        score(RESULTS, REFERENCES)


def test_a_tokenizer_that_fails_is_an_error(java: Java) -> None:
    java("PTBTokenizer", FAILING)
    with refuses("E-JAVA-FAILED", "1 lines of 2 captions", "'Could not reserve"):
        score(RESULTS, REFERENCES)


@pytest.mark.slow
def test_decimals_and_letters_of_another_locale_leave_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In Turkish decimals have a comma, and a capital I is another letter than i."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
    result = score({"1": "IT IS BIG on grass"}, {"1": ["it is big on grass"]})
    assert result["METEOR"] == 1
    assert result["Bleu_4"] == pytest.approx(1)
    assert list(result["left_out"]) == ["SPICE"]


def test_a_java_program_that_fails_is_quoted_without_its_trace(java: Java) -> None:
    trace = r"Picked up X: -D\nException: no 0,5\n\tat a.B(B.java:1)\n\tat c.D(D.java:2)\n"
    java("meteor", f"printf '{trace}' >&2; exit 1")
    why = score(RESULTS, REFERENCES)["left_out"]["METEOR"]
    assert why == "its Java program failed and reported 'Exception: no 0,5'"


def test_meteor_is_left_out_where_its_process_dies(java: Java) -> None:
    java("meteor", FAILING)
    result = score(RESULTS, REFERENCES)
    assert "METEOR" not in result
    why = "its Java program failed and reported 'Could not reserve enough space'"
    assert result["left_out"]["METEOR"] == why
    assert f"METEOR is left out: {why}" in format_scores(result)
    assert programs() == []


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let SPICE find its models, which are large, and put its files into a folder."""
    for name in score_module.SPICE_MODELS:
        (tmp_path / name).touch()
    monkeypatch.setattr(score_module, "SPICE_LIBRARY", tmp_path)
    monkeypatch.setattr(score_module, "_meteor", lambda *_: 0.5)  # is slow
    monkeypatch.setattr(spice, "get_stanford_models", lambda: None)  # would download
    monkeypatch.setattr(spice, "TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(spice, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_spice_is_scored_where_its_models_are(
    java: Java, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = [{"image_id": k, "scores": {"All": {"f": f}}} for k, f in ((0, 0.25), (1, 0.75))]
    (models / "scores.json").write_text(json.dumps(scores))
    seen = models / "options"
    copy = f'echo "$JAVA_TOOL_OPTIONS" >{seen}; while [ "$1" != -out ]; do shift; done; cp {models}/scores.json "$2"'
    java("spice", f"echo Parsing; {copy}; exit 0")
    assert score(RESULTS, REFERENCES)["SPICE"] == 0.5
    assert seen.read_text() == "-Duser.language=en -Duser.country=US\n"
    assert "JAVA_TOOL_OPTIONS" not in os.environ
    assert capfd.readouterr() == ("", "Parsing\n")


@pytest.mark.usefixtures("models")
def test_spice_that_fails_is_left_out(java: Java) -> None:
    java("spice", "exit 3")
    result = score(RESULTS, REFERENCES)
    assert "SPICE" not in result
    assert "non-zero exit status 3" in result["left_out"]["SPICE"]


@pytest.mark.parametrize(
    ("results", "references"),
    [
        ({}, {}),
        ({"1": "a"}, {"1": ["a"], "2": ["b"]}),
        ({"1": "a"}, {"1": []}),
    ],
)
def test_images_must_be_the_same(results: dict[str, str], references: dict[str, list[str]]) -> None:
    with refuses("E-CAPTIONS-IMAGES", f"{len(results)} captions for {len(references)} images"):
        score(results, references)


def test_references_without_a_word_are_refused() -> None:
    with refuses("E-REFERENCES-EMPTY"):
        score({"a": "a cat", "b": "a dog"}, {"a": ["", "..."], "b": ["?"]})


def test_cider_of_one_image_says_that_it_is_0_by_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_module, "_meteor", lambda *_: 0.5)  # is slow
    one, two = score({"1": "a dog"}, {"1": ["a dog"]}), score(RESULTS, REFERENCES)
    assert one["CIDEr"] == 0
    assert [line for line in format_scores(one) if "0 by definition for one image" in line]
    assert one["remark"].startswith("CIDEr is 0 by definition for one image")
    assert "by definition" not in "".join(format_scores(two))
    assert "remark" not in two
