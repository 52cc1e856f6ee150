"""Read a file of weights, whatever its name: tensors, and nothing that would be executed.

What a file is, its content says. Tensors are mapped, not read: only those that a model takes over
come into memory, so that a large file of anything costs no more than the model does.
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

import huggingface_hub
import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...base.errors import ExtractUsageError
from ...base.files import check_tensorfile, open_plain
from ...base.text import printable

HEAD = 512  # bytes that tell what a file is
DIRECTORY_BYTES = 16 << 20  # at the end of a zip archive, where its list of members lies
PICKLE_BYTES = 32 << 20  # the list of a checkpoint's tensors takes some 250 bytes a tensor
UNMAPPED_BYTES = 4 << 30  # of a file that must be read whole
STATE, AVERAGED = "state_dict", "state_dict_ema"

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


class Unreadable(ValueError):
    """A file of the right kind that does not hold tensors by name."""


class Weights(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    remark: str | None  # what its reader should know


class StandIn:
    """Takes the place of every object in a checkpoint that is not a tensor, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Pass over what the object held."""


def read_weights(path: Path) -> Weights:
    """Return the tensors of a state dict, or of a training checkpoint with one in `state_dict`.

    Raises ExtractUsageError for a file of another kind, which names that kind and a remedy, and
    Unreadable where the kind is right and the content is not. No class or function that a file
    names is ever imported, whatever the environment says.
    """
    content = _read(path)
    remark = None
    if isinstance(content, dict) and STATE in content:
        if AVERAGED in content:
            remark = (
                f"{path} holds {STATE} and {AVERAGED} (averaged weights): {STATE} is used, as "
                f"open_clip does; for the other, save it as a file of its own"
            )
        content = content[STATE]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Unreadable(
            f"it holds no tensors by name; it is {_kind(content)}; "
            "save the model's state_dict() in its place"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        told = ", ".join(f"{key} is {_kind(content[key])}" for key in others[:3])
        raise Unreadable(f"it holds more than tensors: {told}; save the dict of tensors alone")
    if content and all(key.startswith("module.") for key in content):  # of DistributedDataParallel
        content = {key.removeprefix("module."): tensor for key, tensor in content.items()}
    return Weights(content, remark)


def _read(path: Path) -> Any:
    try:
        with os.fdopen(open_plain(path, follow=True), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD)
            if head.startswith(b"PK\x03\x04"):
                _check_archive(path, file, size)
                return _load(path, file, size, archive=True)
            if _is_safetensors(head):
                return _read_safetensors(path)
            if head.startswith(b"\x80"):
                return _load(path, file, size, archive=False)
    except IsADirectoryError:
        raise other_kind(path, "a folder", f"pass a file in it{_examples(path)}") from None
    except OSError as error:
        raise ExtractUsageError(
            f"--pretrained {path}: {error.strerror}", code="E-WEIGHTS-FILE"
        ) from None
    if not head.strip():
        raise other_kind(path, "an empty file", AGAIN)
    if head[257:262] == b"ustar":
        raise other_kind(path, "a tar archive", "unpack it first: tar -xf")
    for start, kind, remedy in KINDS:
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            raise other_kind(path, kind, remedy)
    raise other_kind(path, "neither torch's nor safetensors' format", AGAIN)


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as safetensors do: a length of 8 bytes, then an object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        check_tensorfile(path, follow=True)
        return load_file(path)
    except (ValueError, SafetensorError) as error:
        raise Unreadable(f"damaged or cut off: {_reason(error)}; {AGAIN}") from None
    except (MemoryError, RuntimeError) as error:  # torch's, where the system maps no such file
        raise Unreadable(f"cannot be mapped: {_reason(error)}") from None


def _check_archive(path: Path, file: BinaryIO, size: int) -> None:
    """Raise ExtractUsageError or Unreadable for a zip archive that torch.save has not written."""
    file.seek(max(0, size - DIRECTORY_BYTES))
    try:
        members = zipfile.ZipFile(io.BytesIO(file.read(DIRECTORY_BYTES))).infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        raise Unreadable(f"an archive that is damaged or cut off; {AGAIN}") from None
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
        raise other_kind(path, kind, "pass a state dict (.pt or .safetensors)")
    stored = sum(max(member.file_size, member.compress_size) for member in members)
    if pickles[0] > PICKLE_BYTES or stored > size:  # torch compresses nothing
        raise Unreadable(f"its members claim {stored:,} bytes, more than torch.save would write")


def _load(path: Path, file: BinaryIO, size: int, *, archive: bool) -> Any:
    """Return what torch.save wrote: an archive since torch 1.6, bare pickles and tensors before.

    An archive is mapped. What is not, and one whose name torch would take for another format, is
    read whole.
    """
    source = path if archive and path.suffix != ".safetensors" else file
    if source is file and size > UNMAPPED_BYTES:
        raise Unreadable(
            f"{size:,} bytes in a form that has to be read whole, which is done up to "
            f"{UNMAPPED_BYTES:,}; save it again with torch.save, as a .pt file"
        )
    try:
        file.seek(0)
        stand_ins = _stand_ins(file) if archive else []
        file.seek(0)
        with torch.serialization.safe_globals(stand_ins):
            # Given explicitly, weights_only is not overruled by TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.
            return torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except (MemoryError, RecursionError, ArithmeticError, AssertionError, AttributeError, EOFError,
            LookupError, OSError, RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        raise Unreadable(f"damaged, or not of torch: {_reason(error)}") from None


def _stand_ins(file: BinaryIO) -> list[Any]:
    """Return a class without effect for each that a checkpoint names and that is not torch's own.

    Training scripts keep their arguments, numpy's numbers and more beside the tensors. torch finds
    the classes by the names they claim here; none of them is imported.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    parts = (name.rpartition(".") for name in names)
    return [
        type("StandIn", (StandIn,), {"__module__": module, "__qualname__": name})
        for module, _, name in parts
    ]


def _refusal(path: Path, said: str) -> Exception:
    """Return the error for a pickle that torch refuses; its own advice is to execute the file."""
    if found := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", said):
        return ExtractUsageError(
            f"--pretrained {path}: it holds objects besides tensors "
            f"({printable(found[1]):.80}), which would have to be executed to be read; ask for "
            f"its state dict, the tensors alone, as safetensors",
            code="E-WEIGHTS-OBJECTS",
        )
    return Unreadable("a pickle that is damaged, or holds more than tensors")


def _reason(error: Exception) -> str:
    """Return an error's text, without colours and without the advice to execute a file."""
    text = " ".join(str(error).split())
    return printable(text[:200]) if text and "weights_only" not in text else type(error).__name__


def _kind(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(printable(str(key))[:40] for key in list(value)[:5])
        return f"a dict of {keys}" if value else "an empty dict"
    if value is None:
        return "nothing"
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}" if isinstance(value, StandIn) else kind.__name__
    return f"of type {printable(name):.80}"


def _examples(folder: Path) -> str:
    names = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".pt", ".bin", ".safetensors")
    )
    return f": {', '.join(printable(name) for name in names[:3])}" if names else ""


def other_kind(path: Path, kind: str, remedy: str) -> ExtractUsageError:
    """Return the error for a file that is something else than weights."""
    return ExtractUsageError(f"--pretrained {path}: {kind}; {remedy}", code="E-WEIGHTS-KIND")


HUB_SECONDS = 10  # to the first answer of the hub
# Buffers of the archives that OpenAI published; a state dict made from one keeps them.
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}


def download(name: str, tag: str) -> Path:
    """Return the file with the weights of a tag of open_clip's, from the cache or the hub."""
    unreachable = check_hub()
    try:
        with quiet():
            return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join((unreachable or str(error)).split())
        raise ExtractUsageError(
            f"--pretrained {tag}: the weights of {name} cannot be downloaded "
            f"({reason:.160}); where there is no network, pass a file: --pretrained PATH, "
            f"or random weights: --pretrained none --seed 0"
        ) from None


def check_hub() -> str | None:
    """Where the hub does not answer, have its client look at its cache alone; say why.

    It would try each of several file names six times, with pauses: 45 s in all.
    """
    hub = huggingface_hub.constants
    try:
        huggingface_hub.get_session().head(hub.ENDPOINT, timeout=HUB_SECONDS)
    # The hub's HTTP library, and so the kind of error, changes with its version.
    except Exception as error:
        hub.HF_HUB_OFFLINE = True  # what the environment variable of this name sets
        return f"{hub.ENDPOINT} does not answer: {error}"
    return None


def read_checkpoint(path: Path, name: str, model: Any) -> Weights:
    """Return the tensors of a checkpoint with the keys of `model`, which open_clip calls `name`.

    Raises ExtractUsageError for what is not a checkpoint (see `read_weights`).
    """
    try:
        with quiet():
            weights = read_weights(path)
    except Unreadable as reason:
        raise ExtractUsageError(
            f"--pretrained {path}: the file does not fit {name} ({reason})",
            code="E-WEIGHTS-CONTENT",
        ) from None
    try:
        with quiet():
            return weights._replace(tensors=convert_state_dict(model, weights.tensors))
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise misfit(path, name, error) from None


def load_tower(visual: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load the image tower's part of a checkpoint, which must have all of it and nothing else.

    The text tower's part is not looked at. A position table of another size is refused: resizing
    it to the model's size first, as open_clip would, and to the image's then, blurs it twice.
    """
    prefix = "visual."
    mine = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    if not mine:
        expected = [prefix + key for key in visual.state_dict()]
        raise misfit(
            path,
            name,
            f"it has {_some(tensors)}; the image tower of {name} has {_some(expected)}",
        )
    try:
        visual.load_state_dict(mine)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise misfit(path, name, _differences(visual.state_dict(), mine, prefix) or error) from None


def load_rest(model: Any, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load all of a checkpoint but the image tower, which must have all that the model has.

    The temperature of the loss is passed over, and so are buffers that are no weights: OpenAI's,
    and the positions that text towers of older libraries counted.
    """
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    mine = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(("visual.", "logit_"))
        and not key.endswith("position_ids")
        and key not in OPENAI_KEYS
    }
    try:
        lacking, strange = model.load_state_dict(mine, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise misfit(path, name, error) from None
    lacking = [key for key in lacking if not key.startswith(("visual.", "logit_"))]
    if lacking:
        raise misfit(path, name, f"it lacks {len(lacking)} tensors that read texts: {lacking}")
    if strange:
        raise misfit(path, name, f"it has {len(strange)} tensors too many: {strange}")


def misfit(path: Path, name: str, reason: object) -> ExtractUsageError:
    """Return the error for a file that does not hold the weights of the model called `name`."""
    return ExtractUsageError(
        f"--pretrained {path}: the file does not fit {name} "
        f"({printable(' '.join(str(reason).split())[:400])}); "
        f"give the model it was trained as, and a state dict (.pt or .safetensors)",
        code="E-WEIGHTS-FIT",
    )


def _differences(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str
) -> str | None:
    """Return how the tensors found differ from the expected ones in names and shapes, if so."""
    said = []
    if lacking := [prefix + key for key in expected if key not in found]:
        said.append(f"it lacks {_some(lacking)}")
    if strange := [prefix + key for key in found if key not in expected]:
        said.append(f"it has {_some(strange)} too many")
    for key in (key for key in expected if key in found):
        theirs, ours = tuple(found[key].shape), tuple(expected[key].shape)
        if theirs != ours:
            said.append(f"{prefix}{key} is {theirs} and not {ours}")
            break
    return "; ".join(said) or None


def _some(names: Collection[str]) -> str:
    """Return how many names there are, and the first few."""
    few = ", ".join(name[:60] for name in itertools.islice(names, 3))
    more = ", ..." if len(names) > 3 else ""
    count = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return f"{count} ({few}{more})" if names else "no tensors"


def is_openais(tensors: dict[str, Tensor], *, numbers: bool = True) -> bool:
    """Return whether a checkpoint can be OpenAI's, whatever dtype it was saved in.

    OpenAI published the matrices of its models in float16, so each of their numbers is one that
    float16 has. Weights trained in float32 are not: 13 more bits of each would have to be zero.
    Without `numbers` only the names of the tensors are looked at.
    """
    if tensors.keys() >= OPENAI_KEYS or not numbers:
        return tensors.keys() >= OPENAI_KEYS
    matrices = (
        tensor
        for key, tensor in tensors.items()
        if key.startswith("visual.") and tensor.ndim > 1 and not key.endswith("embedding")
    )
    return all(torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in matrices)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence open_clip and the hub: what matters comes back as one error."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
