"""Start an encoder from a BERT: its vocabulary and weights, from a folder or Hugging Face's hub."""

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

logger = logging.getLogger(__name__)

SIZES = {
    "model.hidden": "hidden_size",
    "model.layers": "num_hidden_layers",
    "model.heads": "num_attention_heads",
}
# In no tensor's shape, or best said before any tensor is made; what a config leaves out is BERT's.
ALIKE = (
    *("vocab_size", "intermediate_size", "max_position_embeddings", "type_vocab_size"),
    *("hidden_act", "layer_norm_eps", "is_decoder", "model_type"),
)
CONFIG, PIECES, WEIGHTS = FILES = ("config.json", "vocab.txt", "model.safetensors")
LIMITS = {CONFIG: 1 << 20, PIECES: 16 << 20, WEIGHTS: 16 << 30}  # bytes


@functools.cache  # several places ask, and the hub may be slow to answer
def find_bert(name: str) -> Path:
    """Return the folder with a BERT's files, fetched from the hub where `name` is not a folder.

    Raises UsageError where there is none, or a file is missing: weights are read from safetensors
    alone, since reading the older files means to execute them.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"model.bert {name}: no such folder, and not to be had from the hub ({reason:.200});"
                f" pass a folder with {', '.join(FILES)}"
            ) from None
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise UsageError(f"model.bert {name}: {folder} has no {missing[0]}")
    for file, limit in LIMITS.items():
        if (size := (folder / file).stat().st_size) > limit:
            raise UsageError(
                f"model.bert {name}: {file} has {size:,} bytes, and a BERT's at most {limit:,}",
                code="E-BERT-SIZE",
            )
    return folder


@torch.no_grad()
def start_from(bert: nn.Module, folder: Path) -> nn.Module:
    """Copy the weights of a folder's BERT into `bert`, a BertModel; return all that it has.

    Raises UsageError where the folder's files are no BERT, or one of other sizes.
    """
    import transformers  # takes seconds, and few runs start here

    library: Any = transformers.BertForMaskedLM
    config: Any = bert.config
    _require_alike(config, _read_config(folder, transformers.BertConfig()), folder)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        check_tensorfile(folder / WEIGHTS, LIMITS[WEIGHTS], follow=True)
        # With our own config: the library obeys the folder's in more than sizes.
        found, told = library.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a broken file makes the library raise
        reason = printable(" ".join(str(error).split())[:200])
        raise UsageError(f"model.bert {folder}: not a BERT ({reason})") from None
    # The library fills what the file lacks with random numbers.
    lacking = sorted(key for key in told["missing_keys"] if key.startswith("bert."))
    if lacking:
        raise UsageError(
            f"model.bert {folder}: does not fit (lacks {len(lacking)} tensors: {lacking[0]}, ...)",
            code="E-BERT-FIT",
        )
    try:
        bert.load_state_dict(found.bert.state_dict())
    except RuntimeError as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise UsageError(f"model.bert {folder}: does not fit ({reason})") from None
    logger.info(f"starting from {folder}, a BERT")
    return found


def _read_config(folder: Path, usual: Any) -> dict[str, Any]:
    """Return a BERT's sizes and what else it computes by; `usual` is BERT's own config."""
    try:
        given = parse_json(read_bytes(folder / CONFIG, LIMITS[CONFIG], follow=True))
    except (OSError, ValueError) as error:
        reason = printable(str(error)[:200])
        raise UsageError(f"model.bert {folder}: not a BERT ({CONFIG}: {reason})") from None
    if not isinstance(given, dict):
        raise UsageError(f"model.bert {folder}: not a BERT ({CONFIG} is not an object)")
    return {key: given.get(key, getattr(usual, key)) for key in (*SIZES.values(), *ALIKE)}


def _require_alike(ours: Any, theirs: dict[str, Any], folder: Path) -> None:
    """Raise UsageError unless a BERT computes as ours does, before any memory is taken."""
    differing = {
        key: printable(f"{value!r:.40}")
        for key, value in theirs.items()
        if value != getattr(ours, key)
    }
    for name, size in SIZES.items():
        if size in differing:
            raise UsageError(
                f"{name} is {getattr(ours, size)}, and the BERT of {folder} has "
                f"{differing[size]}; pass --set {name}={differing[size]}"
            )
    for key, value in differing.items():
        raise UsageError(
            f"model.bert {folder}: does not fit ({key} is {value}, and must be "
            f"{getattr(ours, key)!r})",
            code="E-BERT-FIT",
        )
