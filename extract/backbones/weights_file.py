"""Read a file of weights, whatever its name, into tensors and a model, without executing anything.

The content of a file says what it is. Tensors are mapped, not read: only those that a model takes
over come into memory, so that a large file costs no more memory than the model does.
"""

import contextlib
import io
import itertools
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...base.errors import ExtractUsageError, reason_of
from ...base.files import check_tensorfile, open_plain
from ...base.text import printable

HEAD_BYTES = 512  # that tell what a file is
DIRECTORY_BYTES = 16 << 20  # at the end of a zip archive, where its list of members is
MAX_PICKLE_BYTES = 32 << 20  # the list of a checkpoint's tensors takes some 250 bytes a tensor
MAX_UNMAPPED_BYTES = 4 << 30  # of a file that must be read whole
STATE, AVERAGED = "state_dict", "state_dict_ema"
# Buffers of the archives that OpenAI published; a state dict made from one keeps them.
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}

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


class Weights(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    warning: str | None  # what a user should know of them


class Placeholder:
    """Replaces every object of a checkpoint that is not a tensor, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Placeholder":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore what the object held."""


def read_weights(path: Path) -> Weights:
    """Return the tensors of a state dict, or of a training checkpoint with one in `state_dict`.

    Raises ExtractUsageError for a file of another kind, which names that kind and a remedy, and
    UnreadableWeights where the kind is right and the content is not. No class or function that a
    file names is ever imported, whatever the environment says.
    """
    content = _read(path)
    warning = None
    if isinstance(content, dict) and STATE in content:
        if AVERAGED in content:
            warning = (
                f"{path} holds {STATE} and {AVERAGED} (averaged weights): {STATE} is used, as "
                f"open_clip does; for the other, save it as a separate file"
            )
        content = content[STATE]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UnreadableWeights(
            f"it does not hold named tensors; it is {_type_name(content)}; "
            "save the model's state_dict() instead"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        examples = ", ".join(f"{key} is {_type_name(content[key])}" for key in others[:3])
        raise UnreadableWeights(
            f"it holds more than tensors: {examples}; save the dict of tensors alone"
        )
    if content and all(key.startswith("module.") for key in content):  # of DistributedDataParallel
        content = {key.removeprefix("module."): tensor for key, tensor in content.items()}
    return Weights(content, warning)


def _read(path: Path) -> Any:
    try:
        with os.fdopen(open_plain(path, follow=True), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD_BYTES)
            if head.startswith(b"PK\x03\x04"):
                _check_archive(path, file, size)
                return _load(path, file, size, archive=True)
            if _is_safetensors(head):
                return _read_safetensors(path)
            if head.startswith(b"\x80"):
                return _load(path, file, size, archive=False)
    except IsADirectoryError:
        raise _wrong_kind(path, "a folder", f"pass a file in it{_examples(path)}") from None
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


def _check_archive(path: Path, file: BinaryIO, size: int) -> None:
    """Raise ExtractUsageError or UnreadableWeights for a zip archive that is not torch.save's."""
    file.seek(max(0, size - DIRECTORY_BYTES))
    try:
        members = zipfile.ZipFile(io.BytesIO(file.read(DIRECTORY_BYTES))).infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        raise UnreadableWeights(f"an archive that is damaged or cut off; {AGAIN}") from None
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ExtractUsageError(
            f"--pretrained {path}: a TorchScript archive, which would be executed to be "
            f"read; save its state dict once, where you trust it: "
            f"torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')",
            code="E-WEIGHTS-SCRIPT",
        )
    pickles = [member.file_size for member in members if member.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        kind = "numpy arrays" if names and names[0].endswith(".npy") else "a zip archive"
        raise _wrong_kind(path, kind, "pass a state dict (.pt or .safetensors)")
    stored = sum(max(member.file_size, member.compress_size) for member in members)
    if pickles[0] > MAX_PICKLE_BYTES or stored > size:  # torch compresses nothing
        raise UnreadableWeights(
            f"its members claim {stored:,} bytes, more than torch.save would write"
        )


def _load(path: Path, file: BinaryIO, size: int, *, archive: bool) -> Any:
    """Return what torch.save wrote: an archive since torch 1.6, bare pickles and tensors before.

    An archive is mapped. An older file is read whole, and so is an archive whose name torch would
    take for another format.
    """
    source = path if archive and path.suffix != ".safetensors" else file
    if source is file and size > MAX_UNMAPPED_BYTES:
        raise UnreadableWeights(
            f"{size:,} bytes in a form that must be read whole, which is done up to "
            f"{MAX_UNMAPPED_BYTES:,}; save it again with torch.save, as a .pt file"
        )
    try:
        file.seek(0)
        placeholders = _placeholders(file) if archive else []
        file.seek(0)
        with torch.serialization.safe_globals(placeholders):
            # Given explicitly, weights_only is not overruled by TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.
            return torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except (MemoryError, RecursionError, ArithmeticError, AssertionError, AttributeError, EOFError,
            LookupError, OSError, RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        raise UnreadableWeights(f"damaged, or not of torch: {_reason(error)}") from None


def _placeholders(file: BinaryIO) -> list[Any]:
    """Return a class without effect for each that a checkpoint names and that is not torch's own.

    Training scripts save their arguments, numpy's numbers and more beside the tensors. torch finds
    these classes by the names that they claim; none of the real ones is imported.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    parts = (name.rpartition(".") for name in names)
    return [
        type("Placeholder", (Placeholder,), {"__module__": module, "__qualname__": name})
        for module, _, name in parts
    ]


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


def _type_name(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(printable(str(key))[:40] for key in list(value)[:5])
        return f"a dict of {keys}" if value else "an empty dict"
    if value is None:
        return "nothing"
    kind = type(value)
    name = kind.__name__
    if isinstance(value, Placeholder):
        name = f"{kind.__module__}.{kind.__qualname__}"
    return f"of type {printable(name):.80}"


def _examples(folder: Path) -> str:
    names = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".pt", ".bin", ".safetensors")
    )
    return f": {', '.join(printable(name) for name in names[:3])}" if names else ""


def _wrong_kind(path: Path, kind: str, remedy: str) -> ExtractUsageError:
    """Return the error for a file that does not hold weights."""
    return ExtractUsageError(f"--pretrained {path}: {kind}; {remedy}", code="E-WEIGHTS-KIND")


def read_checkpoint(path: Path, name: str, model: Any) -> Weights:
    """Return the weights in a file, with the keys of `model`, which open_clip calls `name`.

    Raises ExtractUsageError for a file that is not a checkpoint (see `read_weights`).
    """
    try:
        with quiet():
            weights = read_weights(path)
    except UnreadableWeights as reason:
        raise ExtractUsageError(
            f"--pretrained {path}: the file does not fit {name} ({reason})",
            code="E-WEIGHTS-CONTENT",
        ) from None
    try:
        with quiet():
            return weights._replace(tensors=convert_state_dict(model, weights.tensors))
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise checkpoint_mismatch(path, name, error) from None


def load_image_tower(visual: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load the image tower's part of a checkpoint, which must have all of it and nothing else.

    The text tower's part is ignored. A position table of another size is an error: resizing it to
    the model's size first, as open_clip would, and to the image's size later, blurs it twice.
    """
    prefix = "visual."
    part = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    if not part:
        expected = [prefix + key for key in visual.state_dict()]
        raise checkpoint_mismatch(
            path,
            name,
            f"it has {_count(tensors)}; the image tower of {name} has {_count(expected)}",
        )
    try:
        visual.load_state_dict(part)
    except (RuntimeError, TypeError, AttributeError) as error:
        differences = _differences(visual.state_dict(), part, prefix)
        raise checkpoint_mismatch(path, name, differences or error) from None


def load_text_tower_weights(model: Any, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load all of a checkpoint but the image tower; it must have all other weights of the model.

    The temperature of the loss is ignored, and so are buffers that are not weights: OpenAI's, and
    the position numbers that text towers of older libraries saved.
    """
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    part = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(("visual.", "logit_"))
        and not key.endswith("position_ids")
        and key not in OPENAI_KEYS
    }
    try:
        missing, unknown = model.load_state_dict(part, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise checkpoint_mismatch(path, name, error) from None
    missing = [key for key in missing if not key.startswith(("visual.", "logit_"))]
    if missing:
        raise checkpoint_mismatch(
            path, name, f"it lacks {len(missing)} tensors that read texts: {missing}"
        )
    if unknown:
        raise checkpoint_mismatch(path, name, f"it has {len(unknown)} tensors too many: {unknown}")


def checkpoint_mismatch(path: Path, name: str, reason: object) -> ExtractUsageError:
    """Return the error for a file that does not hold the weights of the model called `name`."""
    return ExtractUsageError(
        f"--pretrained {path}: the file does not fit {name} "
        f"({printable(' '.join(str(reason).split())[:400])}); "
        f"give the model it was trained as, and a state dict (.pt or .safetensors)",
        code="E-WEIGHTS-FIT",
    )


def _differences(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str
) -> str | None:
    """Return how tensors differ from the expected ones in names and shapes, None if they do not."""
    differences = []
    if missing := [prefix + key for key in expected if key not in given]:
        differences.append(f"it lacks {_count(missing)}")
    if unknown := [prefix + key for key in given if key not in expected]:
        differences.append(f"it has {_count(unknown)} too many")
    for key in (key for key in expected if key in given):
        if given[key].shape != expected[key].shape:
            shape, right = tuple(given[key].shape), tuple(expected[key].shape)
            differences.append(f"{prefix}{key} is {shape} and not {right}")
            break
    return "; ".join(differences) or None


def _count(names: Collection[str]) -> str:
    """Return how many tensors there are, and the names of the first few."""
    few = ", ".join(name[:60] for name in itertools.islice(names, 3))
    more = ", ..." if len(names) > 3 else ""
    count = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return f"{count} ({few}{more})" if names else "no tensors"


def is_openai_checkpoint(tensors: Mapping[str, Tensor], *, check_values: bool = True) -> bool:
    """Return whether a checkpoint can be OpenAI's, whatever dtype it was saved in.

    OpenAI published the matrices of its models in float16, so float16 can hold each of their
    values. Weights trained in float32 differ: 13 more bits of each value would have to be zero.
    Without `check_values` only the names of the tensors decide.
    """
    if tensors.keys() >= OPENAI_KEYS or not check_values:
        return tensors.keys() >= OPENAI_KEYS
    matrices = (
        tensor
        for key, tensor in tensors.items()
        if key.startswith("visual.") and tensor.ndim > 1 and not key.endswith("embedding")
    )
    return all(torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in matrices)


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
