"""A BERT's files, and the weights in them that a model starts from."""

import contextlib
import copy
import functools
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import nn

from ...base.errors import UsageError
from ...base.files import check_tensorfile, read_bytes
from ...base.jsonio import parse_json
from ...base.text import printable
from .settings import SingleStreamSettings

logger = logging.getLogger(__name__)

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
    return UsageError(
        f"model.bert {folder}: not a BERT ({short_reason(reason)})", code="E-BERT-READ"
    )


def _misfit(folder: Path, reason: object) -> UsageError:
    return UsageError(
        f"model.bert {folder}: does not fit ({short_reason(reason)})", code="E-BERT-FIT"
    )


def short_reason(reason: object) -> str:
    return printable(" ".join(str(reason).split())[:200])
