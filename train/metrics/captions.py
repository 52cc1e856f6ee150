"""The published scores of captions: BLEU, METEOR, ROUGE-L, CIDEr and SPICE, by pycocoevalcap.

Their tokenizer (Stanford's PTB tokenizer), METEOR and SPICE are Java programs.
"""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor
from pycocoevalcap.meteor.meteor import METEOR_JAR, Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import spice
from pycocoevalcap.tokenizer import ptbtokenizer

from ...base.errors import ClipfeatError, UsageError
from ...base.text import counted
from . import cider_label, cider_remark

Id = TypeVar("Id", bound=int | str)
Tokenized = Mapping[int, list[str]]
# Otherwise Java uses the user's locale, and METEOR fails where decimals have a comma.
AS_ENGLISH = ("-Duser.language=en", "-Duser.country=US")
OPTIONS = "JAVA_TOOL_OPTIONS"
JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
MAIN = "edu.stanford.nlp.process.PTBTokenizer"
DROPPED = frozenset(ptbtokenizer.PUNCTUATIONS)
SPICE_LIBRARY = Path(spice.__file__).parent / "lib"
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class LeftOut(Exception):
    """A score that cannot be computed on this machine; the text says why."""


def score(results: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    """Return the scores of a caption for each image, in the library's own scales.

    `n` counts images; `Bleu_1` to `Bleu_4`, `METEOR`, `ROUGE_L` and `SPICE` are 0 to 1, `CIDEr` 0
    to 10, with the document frequencies of these references. `left_out` says why METEOR or SPICE
    is missing, `remark` that a CIDEr of one image is 0. Raises UsageError without java,
    ClipfeatError unless both have the same images, and where no reference has a word.
    """
    if results.keys() != references.keys() or not results or not all(references.values()):
        raise ClipfeatError(
            f"{len(results)} captions for {len(references)} images with references: each image "
            "must have one caption and at least one reference",
            code="E-CAPTIONS-IMAGES",
        )
    require_java()
    tokenized = tokenize(dict(enumerate(references.values())))
    if not any(any(texts) for texts in tokenized.values()):
        raise ClipfeatError(
            "no reference has a word, so there is nothing to score by; pass captions by people",
            code="E-REFERENCES-EMPTY",
        )
    captions = tokenize({number: [results[image]] for number, image in enumerate(references)})
    bleu, _ = Bleu(4).compute_score(tokenized, captions, verbose=0)
    scores = {f"Bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    left_out = {}
    for name, scorer in (
        ("METEOR", _meteor),
        ("ROUGE_L", _rouge),
        ("CIDEr", _cider),
        ("SPICE", _spice),
    ):
        try:
            scores[name] = scorer(tokenized, captions)
        except LeftOut as reason:
            left_out[name] = str(reason)
    return {"n": len(results), **scores, "left_out": left_out, **cider_remark(len(results))}


def format_scores(result: Mapping[str, Any]) -> list[str]:
    """Return scores as lines for people."""
    numbers = {k: value for k, value in result.items() if k not in ("n", "left_out", "remark")}
    names = {"CIDEr": cider_label("CIDEr", result["n"])}
    return [
        counted(result["n"], "image"),
        *(f"{value:7.4f}  {names.get(name, name)}" for name, value in numbers.items()),
        *(f"{name} is left out: {reason}" for name, reason in result["left_out"].items()),
    ]


def require_java() -> None:
    """Raise UsageError where no `java` is on the PATH."""
    if shutil.which("java") is None:
        raise UsageError(
            "BLEU, METEOR, ROUGE-L and CIDEr need java on the PATH, because their tokenizer is a "
            "Java program; install a Java runtime of version 8 or newer, such as "
            "openjdk-17-jre-headless",
            code="E-JAVA-MISSING",
        )


def tokenize(texts: Mapping[Id, Iterable[str]]) -> dict[Id, list[str]]:
    """Return texts by id as their words with spaces between: lower case, without punctuation.

    The words are those of pycocoevalcap's `PTBTokenizer`. It splits a text at a carriage return or
    U+2028, and gives the rest to the wrong image; here these characters are spaces. Raises
    ClipfeatError where the Java program fails.
    """
    lists = {key: list(of_key) for key, of_key in texts.items()}
    lines = [_on_one_line(text) for text in chain.from_iterable(lists.values())]
    command = ["java", *AS_ENGLISH, "-cp", str(JAR), MAIN, "-preserveLines", "-lowerCase"]
    # A final line end would add an empty text; half of a surrogate pair has no UTF-8.
    text = "\n".join(lines).encode(errors="replace")
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    tokenized = done.stdout.decode(errors="replace").split("\n")
    if done.returncode or len(tokenized) - len(lines) not in (0, 1):
        raise ClipfeatError(
            f"the tokenizer made {len(tokenized)} lines of {len(lines)} captions and reported "
            f"{java_message(done.stderr)!r}; `java -version` must show version 8 or newer",
            code="E-JAVA-FAILED",
        )
    words = (
        " ".join(word for word in line.rstrip().split(" ") if word not in DROPPED)
        for line in tokenized
    )
    return {key: [next(words) for _ in of_key] for key, of_key in lists.items()}


def java_message(stderr: bytes) -> str:
    """Return why a Java program failed: its message without the stack trace."""
    lines = stderr.decode(errors="replace").splitlines()
    lines = [line for line in lines if not line.startswith(("Picked up ", "NOTE: Picked up "))]
    trace = next((n for n, line in enumerate(lines) if line.startswith("\tat ")), len(lines))
    return " ".join(lines[:trace]).strip()[:300]


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _rouge(references: Tokenized, captions: Tokenized) -> float:
    return float(Rouge().compute_score(references, captions)[0])


def _cider(references: Tokenized, captions: Tokenized) -> float:
    return float(Cider().compute_score(references, captions)[0])


def _meteor(references: Tokenized, captions: Tokenized) -> float:
    scorer, result = EnglishMeteor(), None
    try:
        result = scorer.compute_score(references, captions)[0]
    except (OSError, ValueError):  # its process has died: a broken pipe, or not a number
        pass
    finally:
        message = _end(scorer)
    if result is None:
        raise LeftOut(f"its Java program failed and reported {message!r}")
    return result


class EnglishMeteor(Meteor):
    """The library's METEOR, whose Java program does not depend on the user's locale."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        command = ["java", *AS_ENGLISH, "-Xmx2G", "-jar", METEOR_JAR]
        self.meteor_p = subprocess.Popen(
            [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=Path(meteor.__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def _end(scorer: Meteor) -> str:
    """End METEOR's process; return its message on stderr.

    The library does that when the scorer is collected, but waits for a lock first, without end
    where scoring was interrupted.
    """
    scorer.meteor_p.kill()
    message = java_message(scorer.meteor_p.communicate()[1])
    if scorer.lock.locked():
        scorer.lock.release()
    return message


def _spice(references: Tokenized, captions: Tokenized) -> float:
    missing = [name for name in SPICE_MODELS if not (SPICE_LIBRARY / name).is_file()]
    if missing:
        raise LeftOut(
            f"{SPICE_LIBRARY} has no {' and no '.join(missing)}; "
            "`python -m pycocoevalcap.spice.get_stanford_models` downloads them"
        )
    try:
        with _stdout_to_stderr(), _java_options():
            return float(spice.Spice().compute_score(references, captions)[0])
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise LeftOut(f"its Java program failed ({error})") from None


@contextlib.contextmanager
def _java_options() -> Iterator[None]:
    """Start Java with `AS_ENGLISH` where the library's command has no option for it."""
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = " ".join([*([before] if before else []), *AS_ENGLISH])
    try:
        yield
    finally:
        if before is None:
            del os.environ[OPTIONS]
        else:
            os.environ[OPTIONS] = before


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect to stderr what a child process prints: stdout is for the scores."""
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
