"""From the tensors in a file to a model: what must be there, and what differs where it is not."""

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from ...base.errors import ExtractUsageError
from ...base.text import printable
from .weights_file import UnreadableWeights, quiet
from .weights_state import Weights, read_weights
from .weights_transformers import is_transformers, openclip_tensors

# Buffers of the archives that OpenAI published; a state dict made from one keeps them.
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}


def read_checkpoint(path: Path, name: str, model: Any, *, averaged: bool = False) -> Weights:
    """Return the weights in a file, with the keys of `model`, which open_clip calls `name`.

    With `averaged` they are the averaged ones of a checkpoint that has both. Raises
    ExtractUsageError for a file that is not a checkpoint (see `read_weights`).
    """
    try:
        weights = read_weights(path, averaged=averaged)
    except UnreadableWeights as reason:
        raise ExtractUsageError(
            f"--pretrained {path}: the file does not fit {name} ({reason})",
            code="E-WEIGHTS-CONTENT",
        ) from None
    try:
        with quiet():
            tensors = weights.tensors
            if is_transformers(tensors):
                tensors = openclip_tensors(tensors)
            return weights._replace(tensors=convert_state_dict(model, tensors))
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
