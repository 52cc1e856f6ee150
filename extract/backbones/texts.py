"""The text tower of a model: texts in, vectors in the space of its image embeddings out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float32
from torch import Tensor
from tqdm import tqdm

from ..errors import ExtractUsageError
from ..planning.job import BackboneSpec
from .checkpoints import check_hub, quiet
from .weights import load_model

BATCH = 256  # texts


class TextTower:
    """The text tower of an open_clip model, frozen, in float32; `dim` is that of its vectors."""

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Tensor], dim: int, device: str):
        model.visual = None  # which is the larger part, and is not asked for
        self._model = model.eval().requires_grad_(requires_grad=False).to(device)
        self._tokenizer = tokenizer
        self._device = device
        self.dim = dim

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the embeddings of texts, of norm 1; a text that is too long is cut."""
        found = np.empty((len(texts), self.dim), np.float32)
        for start in tqdm(range(0, len(texts), BATCH), "texts", unit="batch", disable=None):
            tokens = self._tokenizer(list(texts[start : start + BATCH])).to(self._device)
            vectors = self._model.encode_text(tokens, normalize=True)
            found[start : start + BATCH] = vectors.cpu().numpy()
        return found


def load_text_tower(spec: BackboneSpec, device: str) -> tuple[TextTower, dict[str, Any]]:
    """Return the text tower of a backbone's model, and what a store says of the backbone.

    Raises ExtractUsageError for weights that cannot be had, do not fit or have no text tower, and
    where a text tower or a tokenizer of another library cannot be had.
    """
    config: dict[str, Any] = open_clip.get_model_config(spec.model) or {}
    text = config.get("text_cfg", {})
    is_transformers = "hf_model_name" in text or "hf_tokenizer_name" in text
    unreachable = check_hub() if is_transformers else None
    try:
        with quiet():
            tokenizer = open_clip.get_tokenizer(spec.model)
        loaded = load_model(spec, whole=True)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if not is_transformers:
            raise
        reason = " ".join((unreachable or str(error)).split())
        raise ExtractUsageError(
            f"the text tower of {spec.model} cannot be had ({reason:.200}); it takes the library "
            f"transformers, and the hub or its cache: pip install transformers"
        ) from None
    return TextTower(loaded.model, tokenizer, config["embed_dim"], device), loaded.described
