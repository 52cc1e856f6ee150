"""The text tower of a model: texts in, vectors in the space of its image embeddings out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float32
from torch import Tensor
from tqdm import tqdm

from ..base.errors import ExtractUsageError, needs_extra
from ..featstore import FeatureStore
from .api import choose_devices
from .backbones.weights import load_model
from .backbones.weights_file import check_hub, quiet
from .planning.plan import BackboneSpec
from .planning.recipe import Recipe

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


def backbone_spec(store: FeatureStore, pretrained: str | None) -> BackboneSpec:
    """Return the backbone that a store says it was made with."""
    said = store.identity.backbone
    model, weights, seed = said.get("model"), said.get("pretrained"), said.get("seed")
    if not isinstance(model, str) or not isinstance(weights, str):
        raise ExtractUsageError(f"{store.path} does not say which open_clip model it is of")
    if weights == "file" and pretrained is None:
        raise ExtractUsageError(
            f"the weights of {store.path} came from a file: give it with --pretrained PATH"
        )
    seed = seed if isinstance(seed, int) else 0
    return BackboneSpec(model, pretrained or weights, seed, store.identity.precision)


def check_weights(store: FeatureStore, spec: BackboneSpec, described: Mapping[str, Any]) -> None:
    """Raise ExtractUsageError unless the model and the image tower loaded are those of the store.

    `described` is what a store of the loaded one would say of it.
    """
    model, run = store.identity.backbone.get("model"), described["model"]
    if run != model:
        raise ExtractUsageError(
            f"{store.path} was made with {model}, and what lies beside the weights says that they "
            f"are those of {run}: its features are wrong, or it is about other weights",
            code="E-WEIGHTS-CONTRADICTED",
        )
    ours, theirs = described["weights_sha256"], store.identity.backbone.get("weights_sha256")
    if ours != theirs:
        raise ExtractUsageError(
            f"the weights of {spec.model} ({spec.pretrained}) are not those of the store: sha256 "
            f"{ours[:12]}... here, {str(theirs)[:12]}... there; give the right ones: "
            f"--pretrained PATH"
        )


def text_embedder(
    store: FeatureStore, *, pretrained: str | None = None, device: str | None = None
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the function that embeds texts in the space of a store's pooled vectors.

    It takes texts and returns float32 (text, dim), each of norm 1. `pretrained` is the file of
    weights where the store's came from one. Raises ExtractUsageError for a store without
    embeddings, for weights that are not the store's, and for those without a text tower.
    """
    check_embeddings(store)
    spec = backbone_spec(store, pretrained)
    with needs_extra("extract"):
        import torch

    (where,) = choose_devices(device, None, 1, torch.cuda.device_count())
    tower, described = load_text_tower(spec, where)
    check_weights(store, spec, described)
    if tower.dim != store.identity.pooled_dim:
        raise ExtractUsageError(
            f"{store.path} says that its embeddings have {store.identity.pooled_dim} channels; "
            f"those of {spec.model} have {tower.dim}; extract the images again"
        )
    return tower.embed


def check_embeddings(store: FeatureStore) -> None:
    """Raise ExtractUsageError unless a store keeps what `encode_image` gives beside its grids.

    That is in the space of texts whatever the tower (docs/backbones.md). A class token is not:
    the projection comes after it.
    """
    remedy = "extract the images into another store: clipfeat extract --pooled --out OTHER"
    if store.identity.pooled_dim is None:
        raise ExtractUsageError(f"{store.path} has no embeddings of whole images; {remedy}")
    if Recipe.from_json(store.identity.recipe).vector != "embedding":
        raise ExtractUsageError(
            f"{store.path} has class tokens, which cannot be compared with texts; {remedy}"
        )
