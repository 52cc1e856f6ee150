"""Read a file of weights, whatever its name, into tensors, without executing anything.

The content of a file says what it is. Tensors are mapped, not read: only those that a model takes
over come into memory, so that a large file costs no more memory than the model does.
"""

import contextlib
import logging
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...base.errors import ExtractUsageError, reason_of
from ...base.files import check_tensorfile, open_plain, read_bytes
from ...base.jsonio import parse_json
from ...base.text import printable
from .weights_archive import NotTorchs, TorchArchive

HEAD_BYTES = 512  # that tell what a file is
MAX_INDEX_BYTES = 16 << 20
MAX_UNMAPPED_BYTES = 4 << 30  # of a file that must be read whole

AGAIN = "copy or download it again"
# What other files begin with, what they are, and what to do.
KINDS = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer, which names the weights and does not hold them",
        "type git lfs pull in its repository, or download the weights themselves",
    ),
    (b"<", "a web page (HTML) that was saved in place of the weights", f"{AGAIN}, as a file"),
    (b"{", "JSON text", "pass the file of weights that belongs to it"),
    (b"[", "JSON text", "pass the file of weights that belongs to it"),
    (b"\x93NUMPY", "a numpy array", "pass a state dict (.pt or .safetensors)"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip, or tar -xzf"),
    (b"\x89HDF", "an HDF5 file", "pass the weights for PyTorch (.pt or .safetensors)"),
    (b"GGUF", "a GGUF file", "pass the weights for PyTorch (.pt or .safetensors)"),
)


class UnreadableWeights(ValueError):
    """A file of the right kind that does not hold named tensors."""


def read_file(path: Path, *, is_shard: bool = False) -> Any:
    """Return what a file of weights holds: tensors by name, or what a training script saved.

    In it, an `Inert` stands for each object that is not a tensor. Raises ExtractUsageError for a
    file of another kind, which names that kind and a remedy, and UnreadableWeights where the kind
    is right and the content is not. No class or function that a file names is ever imported,
    whatever the environment says.
    """
    try:
        with os.fdopen(open_plain(path, follow=True), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD_BYTES)
            if head.startswith(b"PK\x03\x04"):
                return _read_archive(path, file)
            if _is_safetensors(head):
                return _read_safetensors(path)
            if head.startswith(b"\x80"):
                return _load(path, file, size)
            if not is_shard and (shards := _shards(path, head)):
                return _read_shards(path, shards)
    except IsADirectoryError:
        raise folder_error(path) from None
    except OSError as error:
        raise ExtractUsageError(
            f"--pretrained {path}: {reason_of(error)}", code="E-WEIGHTS-FILE"
        ) from None
    if not head.strip():
        raise _wrong_kind(path, "an empty file", AGAIN)
    if head[257:262] == b"ustar":
        raise _wrong_kind(path, "a tar archive", "unpack it first: tar -xf")
    for start, kind, remedy in KINDS:
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            raise _wrong_kind(path, kind, remedy)
    raise _wrong_kind(path, "neither torch's nor safetensors' format", AGAIN)


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as safetensors do: a length in 8 bytes, then a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        check_tensorfile(path, follow=True)
        return load_file(path)
    except (ValueError, SafetensorError) as error:
        raise UnreadableWeights(f"damaged or cut off: {_reason(error)}; {AGAIN}") from None
    except (MemoryError, RuntimeError) as error:  # of torch, where the system cannot map it
        raise UnreadableWeights(f"cannot be mapped: {_reason(error)}") from None


def _read_archive(path: Path, file: BinaryIO) -> Any:
    """Return what is in an archive, of torch.save or of TorchScript, whose code stays text."""
    try:
        archive = TorchArchive(file)
        return archive.script_state() if archive.is_script else archive.content()
    except NotTorchs as kind:
        remedy = "pass a state dict (.pt or .safetensors)"
        raise _wrong_kind(path, str(kind), remedy) from None
    except ValueError as error:
        raise UnreadableWeights(f"{_reason(error)}; {AGAIN}") from None


def shard_names(path: Path) -> list[str]:
    """Return the files beside an index that hold a model's tensors, [] for another file.

    Raises OSError for a file that cannot be read.
    """
    if not path.name.endswith(".index.json"):
        return []
    return list(dict.fromkeys(map(str, _shards(path, b"{").values())))


def _shards(path: Path, head: bytes) -> dict[str, str]:
    """Return the file of each tensor, where a file is the index of a model in several files."""
    if not head.lstrip().startswith(b"{"):
        return {}
    try:
        index = parse_json(read_bytes(path, MAX_INDEX_BYTES, follow=True))
    except ValueError:
        return {}
    shards = index.get("weight_map")
    return shards if isinstance(shards, dict) else {}


def _read_shards(index: Path, shards: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that an index lists, from the files beside it."""
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(map(str, shards.values())):
        if Path(name).name != name:
            raise UnreadableWeights(
                f"its index names {printable(name):.80}, which is not a file name"
            )
        content = read_file(index.parent / name, is_shard=True)
        for key in (key for key, file in shards.items() if file == name):
            if not isinstance(content, dict) or key not in content:
                raise UnreadableWeights(
                    f"{printable(name):.80} lacks {printable(key):.80}, which the index lists; {AGAIN}"
                )
            tensors[key] = content[key]
    return tensors


def _load(path: Path, file: BinaryIO, size: int) -> Any:
    """Return what torch.save wrote before torch 1.6: bare pickles and tensors, read whole."""
    if size > MAX_UNMAPPED_BYTES:
        raise UnreadableWeights(
            f"{size:,} bytes in a form that must be read whole, which is done up to "
            f"{MAX_UNMAPPED_BYTES:,}; save it again with torch.save, as a .pt file"
        )
    try:
        file.seek(0)
        # Given explicitly, weights_only is not overruled by TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except (MemoryError, RecursionError, ArithmeticError, AssertionError, AttributeError, EOFError,
            LookupError, OSError, RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        raise UnreadableWeights(f"damaged, or not of torch: {_reason(error)}") from None


def _refusal(path: Path, message: str) -> Exception:
    """Return the error for a pickle that torch refuses; its own advice is to execute the file."""
    if match := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message):
        return ExtractUsageError(
            f"--pretrained {path}: it holds objects besides tensors "
            f"({printable(match[1]):.80}), which would have to be executed to be read; ask for "
            f"its state dict, the tensors alone, as safetensors",
            code="E-WEIGHTS-OBJECTS",
        )
    return UnreadableWeights("a pickle that is damaged, or holds more than tensors")


def _reason(error: Exception) -> str:
    """Return an error's text, without colours and without the advice to execute a file."""
    text = " ".join(str(error).split())
    return printable(text[:200]) if text and "weights_only" not in text else type(error).__name__


def folder_error(path: Path) -> ExtractUsageError:
    """Return the error for a folder whose weights have none of the usual names."""
    return _wrong_kind(path, "a folder", f"pass a file in it{_examples(path)}")


def _examples(folder: Path) -> str:
    names = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".pt", ".bin", ".safetensors")
    )
    return f": {', '.join(printable(name) for name in names[:3])}" if names else ""


def _wrong_kind(path: Path, kind: str, remedy: str) -> ExtractUsageError:
    """Return the error for a file that does not hold weights."""
    return ExtractUsageError(f"--pretrained {path}: {kind}; {remedy}", code="E-WEIGHTS-KIND")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence torch, open_clip and the hub in this block: what matters comes back as one error.

    What this switches off in the whole process is put back at the end. open_clip calls
    `logging.warning`, which would give a root logger without handlers one that stays: here it has
    one that does nothing.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    disabled = logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(max(disabled, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
