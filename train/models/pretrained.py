"""Weights that a model starts from: GloVe's word vectors, a BERT, or another run."""

import codecs
import contextlib
import copy
import functools
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import huggingface_hub
import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from ...base.errors import UsageError, reason_of
from ...base.files import check_tensorfile, open_plain, read_bytes
from ...base.jsonio import field, parse_json
from ...base.text import printable
from ...featstore import FeatureStore
from ..checkpoint import read_checkpoint
from ..data.vocabulary import Vocabulary, read_vocabulary
from ..normalize import Statistics, statistics_of
from ..run import VOCABULARY, RunManifest, features_of, find_best, read_manifest
from ..settings import settings_of
from .layers import AnswerHead
from .settings import ModelSettings, SingleStreamSettings, TextTaskSettings

logger = logging.getLogger(__name__)

MAX_GLOVE_BYTES = 32 << 30  # the largest published file, 840B with 300 numbers, has 5.6e9
MAX_LINE_BYTES = 1 << 20


def require_glove(path: Path) -> Path:
    """Return `path`; UsageError unless it is a file that can be read, and not too large."""
    try:
        _open_glove(path).close()
    except OSError as error:
        raise _unreadable_glove(path, error) from None
    return path


def read_glove(
    path: Path, words: Sequence[str], *, channels: int
) -> tuple[Int[Tensor, " word"], Float32[Tensor, "word channel"]]:
    """Return (positions in `words`, their vectors) of the words that a GloVe file has.

    A line is a word and its numbers with spaces between, in UTF-8 with or without a byte-order
    mark; the file is read once, and only the lines of `words` are kept. Raises UsageError that
    names the line of a file in another format, and where the file's vectors have another length or
    it has none of the words, is too large, or is a pipe or a device.
    """
    row_of = {word.encode(): row for row, word in enumerate(words)}
    vectors: dict[int, np.ndarray] = {}
    for place, word, numbers in _glove_lines(path, channels):
        row = row_of.get(word)
        if row is not None and row not in vectors:  # 840B has some words twice
            vectors[row] = _vector(numbers, place)
    if not vectors:
        raise UsageError(
            f"model.glove {path}: has none of the {len(words)} words of the training texts",
            code="E-GLOVE-WORDS",
        )
    return torch.tensor(list(vectors)), torch.from_numpy(np.stack(list(vectors.values())))


def _open_glove(path: Path) -> BinaryIO:
    file = os.fdopen(open_plain(path, follow=True), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > MAX_GLOVE_BYTES:
        file.close()
        raise UsageError(
            f"model.glove {path}: {size:,} bytes; such a file has at most {MAX_GLOVE_BYTES:,}",
            code="E-GLOVE-SIZE",
        )
    return file


def _unreadable_glove(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"model.glove {path}: cannot be read ({reason_of(error)})", code="E-GLOVE-FILE"
    )


def _glove_lines(path: Path, channels: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Yield (place, word, numbers) of each line."""
    number = 0
    try:
        with _open_glove(path) as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                place = f"model.glove {path}, line {number}"
                if len(line) == MAX_LINE_BYTES:
                    raise UsageError(
                        f"{place}: longer than {MAX_LINE_BYTES:,} bytes; pass a text file with a "
                        "word and its numbers in each line",
                        code="E-GLOVE-LINE",
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    _require_length(line, channels, place)
                # From the right: words of the 840B file may have spaces.
                word, *numbers = line.rstrip(b"\r\n").rsplit(b" ", channels)
                if len(numbers) != channels:
                    raise UsageError(
                        f"{place}: expected a word and {channels} numbers; got {len(numbers)} "
                        f"numbers after {word.decode(errors='replace')!r:.40}",
                        code="E-GLOVE-LINE",
                    )
                yield place, word, numbers
    except OSError as error:
        raise _unreadable_glove(path, error) from None
    if not number:
        raise UsageError(f"model.glove {path}: the file is empty", code="E-GLOVE-WORDS")


def _require_length(line: bytes, channels: int, place: str) -> None:
    """Raise UsageError unless the file's first line ends with exactly `channels` numbers."""
    fields = line.split()
    length = next(
        (n for n, text in enumerate(reversed(fields[1:])) if not _is_number(text)),
        max(0, len(fields) - 1),
    )
    if not length:
        raise UsageError(
            f"{place}: expected a word and {channels} numbers; the last field is not a number",
            code="E-GLOVE-LINE",
        )
    if length != channels:
        raise UsageError(
            f"{place}: {length} numbers after its word, but model.embedding is {channels}; "
            f"pass --set model.embedding={length}, or a file with {channels} numbers",
            code="E-GLOVE-LENGTH",
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(numbers: list[bytes], place: str) -> np.ndarray:
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as error:
        raise UsageError(f"{place}: {error}", code="E-GLOVE-LINE") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UsageError(f"{place}: numbers must be finite, as float32 too", code="E-GLOVE-LINE")
    return vector.astype(np.float32)


BERT_SIZES = {
    "model.hidden": "hidden_size",
    "model.layers": "num_hidden_layers",
    "model.heads": "num_attention_heads",
}
# These are in no tensor's shape, or must be checked before any tensor is made; a config that lacks
# one has the value of BertConfig.
BERT_KEYS = (
    *("vocab_size", "intermediate_size", "max_position_embeddings", "type_vocab_size"),
    *("hidden_act", "layer_norm_eps", "is_decoder", "model_type"),
)
CONFIG, PIECES, WEIGHTS = BERT_FILES = ("config.json", "vocab.txt", "model.safetensors")
HUB_SECONDS = 10  # until the first answer of the hub
MAX_BERT_BYTES = {CONFIG: 1 << 20, PIECES: 16 << 20, WEIGHTS: 16 << 30}


@functools.cache  # several callers need it, and the hub may be slow to answer
def find_bert(name: str) -> Path:
    """Return the folder of a BERT's files: `name`, or where the cache of the hub has it.

    It is downloaded if the cache lacks it; a BERT that is there needs no network. Raises UsageError
    where there is none, or where a file is missing or too large. Weights are read only from
    safetensors: to read the older files means to execute them.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _cached_bert(name) or _download_bert(name)
    if missing := _missing_file(folder):
        raise UsageError(f"model.bert {name}: {folder} has no {missing}", code="E-BERT-FILE")
    for file, limit in MAX_BERT_BYTES.items():
        if (size := (folder / file).stat().st_size) > limit:
            raise UsageError(
                f"model.bert {name}: {file} has {size:,} bytes, and a BERT's at most {limit:,}",
                code="E-BERT-SIZE",
            )
    return folder


def _cached_bert(name: str) -> Path | None:
    """Return the folder of a BERT in the cache of the hub's client, None if a file is missing."""
    # The kinds of errors of the hub's client change with its version.
    with contextlib.suppress(Exception):
        folder = _snapshot(name, from_cache=True)
        return None if _missing_file(folder) else folder
    return None


def _download_bert(name: str) -> Path:
    """Return the folder of a BERT that is downloaded now; UsageError where that fails."""
    try:
        # Asked first, because the download waits for minutes for a server that does not answer.
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_SECONDS)
        return _snapshot(name, from_cache=False)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"model.bert {name}: not a folder, not in the cache of Hugging Face's hub, and cannot "
            f"be downloaded ({printable(reason):.200}); pass a folder with {', '.join(BERT_FILES)}, "
            'or train from random weights and pieces of the corpus: --set model.bert=""',
            code="E-BERT-FILE",
        ) from None


def _snapshot(name: str, *, from_cache: bool) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            name, allow_patterns=list(BERT_FILES), local_files_only=from_cache
        )
    )


def _missing_file(folder: Path) -> str | None:
    return next((file for file in BERT_FILES if not (folder / file).is_file()), None)


@torch.no_grad()
def load_bert(bert: nn.Module, folder: Path) -> nn.Module:
    """Copy the weights of a folder's BERT into `bert`, a BertModel; return the BertForMaskedLM.

    Raises UsageError where the folder's files are not those of a BERT, or of one of other sizes.
    """
    import transformers  # takes seconds, and few runs start from a BERT

    library: Any = transformers.BertForMaskedLM
    config: Any = bert.config
    _require_same_config(config, _read_config(folder, transformers.BertConfig()), folder)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        check_tensorfile(folder / WEIGHTS, MAX_BERT_BYTES[WEIGHTS], follow=True)
        # With our own config: the library takes more than sizes from the folder's.
        published, report = library.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a broken file can make the library raise anything
        raise _not_a_bert(folder, error) from None
    # The library fills missing tensors with random numbers.
    missing = sorted(key for key in report["missing_keys"] if key.startswith("bert."))
    if missing:
        raise _misfit(folder, f"lacks {len(missing)} tensors: {missing[0]}, ...")
    try:
        bert.load_state_dict(published.bert.state_dict())
    except RuntimeError as error:
        raise _misfit(folder, error) from None
    logger.info(f"starting from {folder}, a BERT")
    return published


def _read_config(folder: Path, usual: Any) -> dict[str, Any]:
    """Return the values of a BERT's config that must fit; `usual` is BERT's own config."""
    try:
        record = parse_json(read_bytes(folder / CONFIG, MAX_BERT_BYTES[CONFIG], follow=True))
    except (OSError, ValueError) as error:
        raise _not_a_bert(folder, f"{CONFIG}: {error}") from None
    if not isinstance(record, dict):
        raise _not_a_bert(folder, f"{CONFIG} is not an object")
    return {key: record.get(key, getattr(usual, key)) for key in (*BERT_SIZES.values(), *BERT_KEYS)}


def _require_same_config(config: Any, values: dict[str, Any], folder: Path) -> None:
    """Raise UsageError where a BERT's `values` differ from `config`, before any memory is taken."""
    differing = {
        key: printable(f"{value!r:.40}")
        for key, value in values.items()
        if value != getattr(config, key)
    }
    sizes = {name: getattr(config, key) for name, key in BERT_SIZES.items()}
    _require_same_sizes(sizes, values, folder)
    for key, value in differing.items():
        raise _misfit(folder, f"{key} is {value}, and must be {getattr(config, key)!r}")


def require_bert_sizes(model: SingleStreamSettings, folder: Path) -> None:
    """Raise UsageError where the config of a folder's BERT has other sizes than `model`.

    `load_bert` checks it, too, but only when the texts have been read.
    """
    import transformers

    values = _read_config(folder, transformers.BertConfig())
    sizes = {"model.hidden": model.hidden, "model.layers": model.layers, "model.heads": model.heads}
    _require_same_sizes(sizes, values, folder)


def _require_same_sizes(sizes: dict[str, int], values: dict[str, Any], folder: Path) -> None:
    for name, size in sizes.items():
        theirs = values[BERT_SIZES[name]]
        if theirs != size:
            shown = printable(f"{theirs!r:.40}")
            raise UsageError(
                f"{name} is {size}, and the BERT of {folder} has {shown}; pass --set {name}={shown}, "
                'or --set model.bert="" to train from random weights',
                code="E-BERT-FIT",
            )


def _not_a_bert(folder: Path, reason: object) -> UsageError:
    return UsageError(f"model.bert {folder}: not a BERT ({_short(reason)})", code="E-BERT-READ")


def _misfit(folder: Path, reason: object) -> UsageError:
    return UsageError(f"model.bert {folder}: does not fit ({_short(reason)})", code="E-BERT-FIT")


def _short(reason: object) -> str:
    return printable(" ".join(str(reason).split())[:200])


TASK = "pretrain"
ANSWERING = ("vqa", "ve")  # tasks whose runs have one model with a row for each class
LAST = "3."  # prefix of the last layer of an answer head, which has a row for each answer
# As torch names the parts of a weight-normed matrix, which is length * direction / norm(direction).
LENGTH, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


@runtime_checkable
class StartedSettings(Protocol):
    """The settings of a task that may start from a run."""

    @property
    def init(self) -> str: ...

    @property
    def model(self) -> object: ...


def require_init(init: str) -> None:
    """Raise UsageError (E-INIT-FOLDER) where the run to start from does not exist."""
    if not os.path.lexists(init):
        raise UsageError(
            f"init {init}, the run to start from, does not exist; pass --init RUN with "
            "the folder of a run",
            code="E-INIT-FOLDER",
        )


def require_own_model(settings: StartedSettings, model: object) -> None:
    """Raise UsageError where settings name another model than that of the run they start from."""
    if settings.model not in (type(settings)().model, model):
        raise UsageError(
            f"init {settings.init} determines the model, {model}, and the settings name "
            f"{settings.model}; leave out model",
            code="E-INIT-MODEL",
        )


def require_features_of(
    store: FeatureStore, folder: Path, manifest: RunManifest, *, channels: int
) -> None:
    """Raise UsageError unless a store's features have the backbone and width of a run to start from.

    `channels` are those of the run's features. Another recipe may be intended, such as larger images
    for fine-tuning, and is logged.
    """
    trained, given = manifest.features, features_of(store)
    differ = {
        part: f"{trained.get(part)!r}, and {store.location} has {given[part]!r}" for part in given
    }
    if trained.get("backbone") != given["backbone"]:
        raise UsageError(
            f"init {folder} was trained on features of another backbone: "
            f"{differ['backbone']}; extract these images with that backbone",
            code="E-INIT-FEATURES",
        )
    if channels != store.dim:
        raise UsageError(
            f"init {folder} was trained on features of {channels} channels, and those of "
            f"{store.location} have {store.dim}; extract these images in the same way",
            code="E-INIT-FEATURES",
        )
    if trained.get("recipe") != given["recipe"]:
        logger.info(f"init {folder} was trained on another recipe: {differ['recipe']}")


@dataclass(frozen=True)
class Pretrained:
    """The best checkpoint of a run, with what a model needs to start from it."""

    folder: Path
    manifest: RunManifest
    settings: ModelSettings
    vocabulary: Vocabulary
    tensors: dict[str, Tensor]
    norm: str
    components: int
    whitening: float
    statistics: Statistics  # of the features that the run was trained on
    epoch: int

    def has(self, name: str) -> bool:
        """Return whether the run's model has a part of that name."""
        return any(tensor.startswith(f"model.{name}.") for tensor in self.tensors)

    def fill(self, part: nn.Module, name: str) -> None:
        """Copy the weights of the run's part `name` into a part of a model.

        Raises UsageError where the run's model has no such part, or one of another size.
        """
        prefix = f"model.{name}."
        state = {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(
                f"init {self.folder}: its {name} does not fit ({_short(error)})",
                code="E-INIT-FIT",
            ) from None

    @torch.no_grad()
    def fill_answers(self, head: AnswerHead, answers: Sequence[str]) -> int:
        """Copy the run's weights into a head for `answers`; return how many of them it knew.

        A new answer's row is zero, as in LXMERT. A run without answers changes nothing.
        """
        known = {answer: row for row, answer in enumerate(self.vocabulary.answers)}
        pairs = [(row, known[answer]) for row, answer in enumerate(answers) if answer in known]
        if not pairs:
            return 0
        assert isinstance(self.settings, SingleStreamSettings)
        source = AnswerHead(self.settings.hidden, len(known))
        self.fill(source, "answer")
        rows, source_rows = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
        weights = source.state_dict()
        for name, tensor in head.state_dict().items():
            if name.startswith(LAST):
                tensor.zero_()
                tensor[rows] = weights[name][source_rows]
            else:
                tensor.copy_(weights[name])
        return len(pairs)

    @torch.no_grad()
    def fill_model(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        *,
        of_tokens: Collection[str],
        of_classes: Collection[str],
    ) -> None:
        """Copy the weights of an answering run into its model for another vocabulary.

        `of_tokens` and `of_classes` are the names of the tensors with a row for each of them. The
        first tokens of the vocabulary must be those of the run. Rows of tokens and classes that
        the run does not have stay as they are. Raises UsageError where the run's weights do not fit.
        """
        known = {each: row for row, each in enumerate(_classes(self.vocabulary))}
        wanted = enumerate(_classes(vocabulary))
        pairs = [(row, known[each]) for row, each in wanted if each in known]
        rows, source_rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
        try:
            state = {name: self.tensors[f"model.{name}"] for name in model.state_dict()}
            for name, fresh in model.state_dict().items():
                if name in of_tokens:
                    state[name] = torch.cat((state[name], fresh[len(state[name]) :]))
                elif name in of_classes:
                    own = state[name]
                    state[name] = fresh.index_copy(0, rows, own[source_rows])
                    if name.endswith(DIRECTION):  # known rows stay, though the norm is another
                        length = name.removesuffix(DIRECTION) + LENGTH
                        state[length] = state[length] * (state[name].norm() / own.norm())
            model.load_state_dict(state)
        except (KeyError, IndexError, RuntimeError) as error:
            raise UsageError(
                f"init {self.folder}: its weights do not fit its settings ({_short(error)})",
                code="E-INIT-FIT",
            ) from None


def _classes(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the classes of a model, in their order: an answer may be a hideable word, too."""
    answers = [("answer", answer) for answer in vocabulary.answers]
    return [*answers, *(("word", word) for word in vocabulary.hideable)]


def load_pretrained(folder: Path, tasks: Sequence[str] = (TASK,)) -> Pretrained:
    """Return the best model of a run of one of `tasks`; UsageError for any other folder."""
    manifest = read_manifest(folder)
    if manifest.task not in tasks:
        raise UsageError(
            f"{folder} is a run of task {manifest.task!r}, not {' or '.join(tasks)}",
            code="E-RUN-TASK",
        )
    path = find_best(folder)
    model = field(manifest.settings, "model", dict, folder)
    norm = field(manifest.settings, "norm", str, folder)
    components = field(manifest.settings, "components", int, folder)
    whitening = field(manifest.settings, "whitening", float, folder)
    if manifest.task == TASK:
        settings = settings_of(SingleStreamSettings, model, "model.")
    else:
        settings = settings_of(TextTaskSettings, {"model": model}).model
    tensors, state = read_checkpoint(path)
    return Pretrained(
        folder,
        manifest,
        settings,
        read_vocabulary(folder / VOCABULARY),
        tensors,
        norm,
        components,
        whitening,
        statistics_of(tensors, "model.norm", path, norm=norm, components=components),
        field(state, "epoch", int, path),
    )
