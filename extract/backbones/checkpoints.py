"""Checkpoint files and the hub's cache: the tensors of towers, and nothing executed."""

import contextlib
import itertools
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from ...base.text import printable
from ..errors import ExtractUsageError
from .weights_file import Unreadable, Weights, read_weights

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
