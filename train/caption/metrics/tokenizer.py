"""The tokenizer of the published scores: Stanford's PTB tokenizer, a Java program."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

from pycocoevalcap.tokenizer import ptbtokenizer

from ....base.errors import ClipfeatError, UsageError

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
