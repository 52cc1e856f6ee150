"""The backbone that a store was made with: its name and weights, and whether these are they."""

from collections.abc import Mapping
from typing import Any

from ..featstore import FeatureStore
from .errors import ExtractUsageError
from .planning.job import BackboneSpec


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
