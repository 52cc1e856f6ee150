"""Embed texts as a store's pooled vectors embed its images: by the very model it was made with."""

from collections.abc import Callable, Sequence

import numpy as np

from ..base.errors import needs_extra
from ..featstore import FeatureStore
from .errors import ExtractUsageError
from .prepare import choose_devices
from .recipes.recipe import Recipe
from .store_backbone import backbone_spec, check_weights


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

        from .backbones.texts import load_text_tower
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
