"""Start an encoder from a BERT: its vocabulary and weights, from a folder or Hugging Face's hub."""

import functools
import sys
from pathlib import Path

import huggingface_hub
import torch
from torch import nn

from ...base.errors import UsageError

SIZES = {
    "model.hidden": "hidden_size",
    "model.layers": "num_hidden_layers",
    "model.heads": "num_attention_heads",
}
CONFIG, PIECES, WEIGHTS = FILES = ("config.json", "vocab.txt", "model.safetensors")


@functools.cache  # several places ask, and the hub may be slow to answer
def find_bert(name: str) -> Path:
    """Return the folder with the files of a BERT, fetched from the hub where `name` is no folder.

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
    return folder


@torch.no_grad()
def start_from(bert: nn.Module, folder: Path) -> nn.Module:
    """Copy the weights of a folder's BERT into `bert`, a BertModel; return all that it has.

    Raises UsageError where the folder's files are no BERT, or one of other sizes.
    """
    import transformers  # takes seconds, and few runs start here

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        found = transformers.BertForMaskedLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # whatever a broken file makes the library raise
        raise UsageError(f"model.bert {folder}: not a BERT ({error!s:.200})") from None
    for name, size in SIZES.items():
        theirs, ours = getattr(found.config, size), getattr(bert.config, size)
        if theirs != ours:
            raise UsageError(
                f"{name} is {ours}, and the BERT of {folder} has {theirs}; pass --set {name}={theirs}"
            )
    try:
        bert.load_state_dict(found.bert.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"model.bert {folder}: does not fit ({reason:.200})") from None
    print(f"starting from {folder}, a BERT", file=sys.stderr)
    return found
