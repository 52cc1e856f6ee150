"""The tokenizer of the published scores: Stanford's PTB tokenizer, a Java program."""

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
from . import cider_label, cider_remark

Id = TypeVar("Id", bound=int | str)
# Else Java goes by the user's locale, and METEOR dies of its own numbers where decimals have a comma.
AS_ENGLISH = ("-Duser.language=en", "-Duser.country=US")
JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
MAIN = "edu.stanford.nlp.process.PTBTokenizer"
DROPPED = frozenset(ptbtokenizer.PUNCTUATIONS)


def require_java() -> None:
    """Raise UsageError where no `java` is on the PATH."""
    if shutil.which("java") is None:
        raise UsageError(
            "BLEU, METEOR, ROUGE-L and CIDEr need java on the PATH, as their tokenizer is a Java "
            "program; install a Java runtime of version 8 or newer, such as openjdk-17-jre-headless"
        )


def tokenize(texts: Mapping[Id, Iterable[str]]) -> dict[Id, list[str]]:
    """Return texts by id as their words with spaces between: lower case, without punctuation.

    The words are those of pycocoevalcap's `PTBTokenizer`. That cuts a text in two at a carriage
    return or U+2028, and gives what follows to the wrong images; here these are spaces. Raises
    ClipfeatError where the Java program fails.
    """
    lists = {key: list(own) for key, own in texts.items()}
    lines = [_on_one_line(text) for text in chain.from_iterable(lists.values())]
    command = ["java", *AS_ENGLISH, "-cp", str(JAR), MAIN, "-preserveLines", "-lowerCase"]
    # A last line end would be an empty text more; half a surrogate pair has no UTF-8.
    given = "\n".join(lines).encode(errors="replace")
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    tokenized = done.stdout.decode(errors="replace").split("\n")
    if done.returncode or len(tokenized) - len(lines) not in (0, 1):
        raise ClipfeatError(
            f"the tokenizer made {len(tokenized)} lines of {len(lines)} captions and said "
            f"{said_by_java(done.stderr)!r}; `java -version` must name version 8 or newer"
        )
    words = (
        " ".join(word for word in line.rstrip().split(" ") if word not in DROPPED)
        for line in tokenized
    )
    return {key: [next(words) for _ in own] for key, own in lists.items()}


def said_by_java(stderr: bytes) -> str:
    """Return why a Java program failed: what stands before the trace, which says it again."""
    lines = stderr.decode(errors="replace").splitlines()
    said = [line for line in lines if not line.startswith(("Picked up ", "NOTE: Picked up "))]
    trace = next((n for n, line in enumerate(said) if line.startswith("\tat ")), len(said))
    return " ".join(said[:trace]).strip()[:300]


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())


Tokenized = Mapping[int, list[str]]
OPTIONS = "JAVA_TOOL_OPTIONS"
SPICE_LIBRARY = Path(spice.__file__).parent / "lib"
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class LeftOut(Exception):
    """A score that cannot be had here; the text says why."""


def score(results: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    """Return the scores of a caption for each image, in the library's own scales.

    `n` counts images; `Bleu_1` to `Bleu_4`, `METEOR`, `ROUGE_L` and `SPICE` are 0 to 1, `CIDEr` 0
    to 10, with the document frequencies of these references. `left_out` says why METEOR or SPICE
    is not there, `remark` that a CIDEr of one image is 0. Raises UsageError without java,
    ClipfeatError unless both have the same images, and where no reference has a word.
    """
    if results.keys() != references.keys() or not results or not all(references.values()):
        raise ClipfeatError(
            f"{len(results)} captions for {len(references)} images with references: each image "
            "must have one caption and at least one reference"
        )
    require_java()
    said = tokenize(dict(enumerate(references.values())))
    if not any(any(texts) for texts in said.values()):
        raise ClipfeatError(
            "no reference has a word, so there is nothing to score by; give what people wrote",
            code="E-REFERENCES-EMPTY",
        )
    captions = tokenize({place: [results[image]] for place, image in enumerate(references)})
    bleu, _ = Bleu(4).compute_score(said, captions, verbose=0)
    found = {f"Bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    left_out = {}
    for name, scored in (
        ("METEOR", _meteor),
        ("ROUGE_L", _rouge),
        ("CIDEr", _cider),
        ("SPICE", _spice),
    ):
        try:
            found[name] = scored(said, captions)
        except LeftOut as why:
            left_out[name] = str(why)
    return {"n": len(results), **found, "left_out": left_out, **cider_remark(len(results))}


def describe(result: Mapping[str, Any]) -> list[str]:
    """Return scores as lines for people."""
    told = ("n", "left_out", "remark")
    numbers = {name: value for name, value in result.items() if name not in told}
    names = {"CIDEr": cider_label("CIDEr", result["n"])}
    return [
        f"{result['n']} images",
        *(f"{value:7.4f}  {names.get(name, name)}" for name, value in numbers.items()),
        *(f"{name} is left out: {why}" for name, why in result["left_out"].items()),
    ]


def _rouge(references: Tokenized, captions: Tokenized) -> float:
    return float(Rouge().compute_score(references, captions)[0])


def _cider(references: Tokenized, captions: Tokenized) -> float:
    return float(Cider().compute_score(references, captions)[0])


def _meteor(references: Tokenized, captions: Tokenized) -> float:
    scorer, found = EnglishMeteor(), None
    try:
        found = scorer.compute_score(references, captions)[0]
    except (OSError, ValueError):  # its process has died: a broken pipe, or no number
        pass
    finally:
        said = _end(scorer)
    if found is None:
        raise LeftOut(f"its Java program failed and said {said!r}")
    return found


class EnglishMeteor(Meteor):
    """The library's METEOR, whose Java program does not go by the user's locale."""

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
    """End METEOR's process; return what it said on stderr.

    The library does that when the scorer is collected, but waits for a lock first, for ever
    where scoring was cut off.
    """
    scorer.meteor_p.kill()
    said = said_by_java(scorer.meteor_p.communicate()[1])
    if scorer.lock.locked():
        scorer.lock.release()
    return said


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
    """Start Java with `AS_ENGLISH` where the library's command cannot be told to."""
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
    """Send what a child process prints to stderr: stdout is for the scores."""
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
