"""The text tower of a model: from texts to vectors in the space of its image embeddings."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float32
from open_clip.tokenizer import HFTokenizer
from torch import Tensor
from tqdm import tqdm

from ..base.errors import ExtractUsageError
from ..featstore import FeatureStore
from ..featstore.recipes import before_pooling
from .api import choose_device
from .backbones.architecture import CUSTOM
from .backbones.timm_models import is_timms
from .backbones.weights import load_model
from .backbones.weights_file import quiet
from .backbones.weights_sources import ChosenModel, cache_if_hub_unreachable, choose_model
from .planning.plan import BackboneSpec
from .planning.recipe import Recipe

BATCH = 256  # texts
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model")


class TextTower:
    """The text tower of an open_clip model, frozen, in float32; `dim` is that of its vectors."""

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Tensor], dim: int, device: str):
        model.visual = None  # which is the larger part, and is not needed
        self._model = model.eval().requires_grad_(requires_grad=False).to(device)
        self._tokenizer = tokenizer
        self._device = device
        self.dim = dim

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], *, progress: bool = True
    ) -> Float32[np.ndarray, "text dim"]:
        """Return the embeddings of texts, of norm 1; a text that is too long is cut.

        On a terminal, a bar shows the `progress`.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        disable = None if progress else True
        for start in tqdm(range(0, len(texts), BATCH), "texts", unit="batch", disable=disable):
            tokens = self._tokenizer(list(texts[start : start + BATCH])).to(self._device)
            batch = self._model.encode_text(tokens, normalize=True)
            vectors[start : start + BATCH] = batch.cpu().numpy()
        return vectors


def load_text_tower(spec: BackboneSpec, device: str) -> tuple[TextTower, dict[str, Any]]:
    """Return the text tower of a backbone's model, and what a store says of the backbone.

    Raises as `load_towers` does.
    """
    tower, _, described = load_towers(spec, device)
    return tower, described


def load_towers(spec: BackboneSpec, device: str) -> tuple[TextTower, Any, dict[str, Any]]:
    """Return the text tower of a backbone's model, open_clip's image tower on the CPU, and what a
    store says of the backbone.

    Raises ExtractUsageError for weights that cannot be read, do not fit or have no text tower, and
    where a text tower or a tokenizer of another library cannot be loaded.
    """
    if is_timms(spec.model):
        raise ExtractUsageError(
            f"{spec.model} was trained without texts, and has no text tower; for texts, extract "
            f"the images with a model of open_clip, such as ViT-B-32",
            code="E-TEXTS-TOWER",
        )
    chosen = choose_model(spec, whole=True)
    name, config = chosen.architecture
    text = config.get("text_cfg", {})
    is_transformers = "hf_model_name" in text or "hf_tokenizer_name" in text
    with cache_if_hub_unreachable() if is_transformers else contextlib.nullcontext("") as offline:
        try:
            with quiet():
                tokenizer = load_tokenizer(chosen)
            with refuse_code() if is_transformers else contextlib.nullcontext():
                loaded = load_model(spec, whole=True)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            if not is_transformers:
                raise
            reason = " ".join((offline or str(error)).split())
            raise ExtractUsageError(
                f"the text tower of {name} cannot be loaded ({reason:.200}); it needs the "
                f"library transformers, and the hub or its cache: pip install transformers",
                code="E-TEXTS-TOWER",
            ) from None
    visual = loaded.model.visual
    return TextTower(loaded.model, tokenizer, config["embed_dim"], device), visual, loaded.described


@contextlib.contextmanager
def refuse_code() -> Iterator[None]:
    """Have transformers refuse a model with code of its own, in place of asking at the terminal.

    A description beside weights may name any repository as the text tower's.
    """
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE  # that a person has for an answer
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def load_tokenizer(chosen: ChosenModel) -> Callable[[list[str]], Tensor]:
    """Return the tokenizer of a model; one of transformers is taken from its folder if it is there.

    Raises ValueError where a model needs one of transformers, and neither has nor names it.
    """
    name, config = chosen.architecture
    text: dict[str, Any] = config.get("text_cfg", {})
    length, settings = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
    if "hf_tokenizer_name" not in text:
        if name != CUSTOM:
            return open_clip.get_tokenizer(name)
        return open_clip.SimpleTokenizer(context_length=length, **settings)
    folder = None if chosen.path is None else chosen.path.parent
    has_own = folder is not None and any((folder / file).exists() for file in TOKENIZER_FILES)
    source = str(folder) if has_own else text["hf_tokenizer_name"]
    if not source:
        raise ValueError(f"there is no {' or '.join(TOKENIZER_FILES)} beside its weights")
    mode = text.get("tokenizer_mode")
    return HFTokenizer(source, length, tokenizer_mode=mode, trust_remote_code=False, **settings)


def backbone_spec(
    store: FeatureStore,
    pretrained: str | None,
    model_config: str | None = None,
    *,
    ema: bool = False,
) -> BackboneSpec:
    """Return the backbone that a store says it was made with.

    Raises ExtractUsageError for a store that does not say, and where the weights came from a file
    and `pretrained` does not name it, or an architecture that is not open_clip's, and neither
    `model_config` nor what is beside the weights has it.
    """
    backbone = store.identity.backbone
    model, weights, seed = (backbone.get(key) for key in ("model", "pretrained", "seed"))
    if not isinstance(model, str) or not isinstance(weights, str):
        raise ExtractUsageError(
            f"{store.location} does not say which open_clip model it was made with",
            code="E-STORE-BACKBONE",
        )
    if weights == "file" and pretrained is None:
        raise ExtractUsageError(
            f"the weights of {store.location} came from a file: give it with --pretrained PATH",
            code="E-WEIGHTS-MISSING",
        )
    if model == CUSTOM and weights == "none" and model_config is None:
        raise ExtractUsageError(
            f"{store.location} was made with an architecture of its maker's own: give it with "
            f"--model-config FILE",
            code="E-MODEL-MISSING",
        )
    return BackboneSpec(
        None if model == CUSTOM else model,
        pretrained or weights,
        seed if isinstance(seed, int) else 0,
        store.identity.precision,
        model_config if model == CUSTOM else None,
        ema,
    )


def check_weights(store: FeatureStore, spec: BackboneSpec, described: Mapping[str, Any]) -> None:
    """Raise ExtractUsageError unless a loaded model and its image tower are those of the store.

    `described` is what a store that is made with the loaded one would say of it.
    """
    model, used = store.identity.backbone.get("model"), described["model"]
    if used != model:
        raise ExtractUsageError(
            f"{store.location} was made with {model}, and the file that describes the weights says "
            f"that they are those of {used}: the features of the store are wrong, or that file is "
            f"about other weights",
            code="E-WEIGHTS-CONTRADICTED",
        )
    if described.get("model_config") != store.identity.backbone.get("model_config"):
        raise ExtractUsageError(
            f"{store.location} was made with an image tower of other settings "
            f"({store.identity.backbone.get('model_config')!s:.300}); give the right one: "
            f"--model-config FILE",
            code="E-MODEL-OTHER",
        )
    loaded, stored = described["weights_sha256"], store.identity.backbone.get("weights_sha256")
    if loaded != stored:
        raise ExtractUsageError(
            f"the weights of {used} ({spec.pretrained}) are not those of the store: sha256 "
            f"{loaded[:12]}... here, {str(stored)[:12]}... there; give the right ones: "
            f"--pretrained PATH",
            code="E-WEIGHTS-OTHER",
        )


def text_embedder(
    store: FeatureStore,
    *,
    pretrained: str | None = None,
    model_config: str | None = None,
    ema: bool = False,
    device: str | None = None,
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the function that embeds texts in the space of a store's pooled vectors.

    It takes texts and returns float32 (text, dim), each of norm 1. `pretrained`, `model_config` and
    `ema` are what an extraction was given where the weights came from a file. Raises
    ExtractUsageError for a store without embeddings, for weights that are not the store's, and for
    those without a text tower.
    """
    check_embeddings(store)
    spec = backbone_spec(store, pretrained, model_config, ema=ema)
    device = choose_device(device, torch.cuda.device_count())
    tower, described = load_text_tower(spec, device)
    check_weights(store, spec, described)
    if tower.dim != store.identity.pooled_dim:
        raise ExtractUsageError(
            f"{store.location} says that its embeddings have {store.identity.pooled_dim} channels; "
            f"those of the model have {tower.dim}; extract the images again",
            code="E-TEXTS-DIM",
        )
    return tower.embed


def check_embeddings(store: FeatureStore) -> None:
    """Raise ExtractUsageError unless a store keeps the output of `encode_image` beside its grids.

    It is in the space of texts for every tower (docs/backbones.md). A class token is not: the
    projection comes after it.
    """
    problem = ""
    if store.identity.pooled_dim is None:
        problem = "has no embeddings of whole images"
    elif Recipe.from_json(before_pooling(store.identity)[0]).vector != "embedding":
        problem = "has class tokens, which cannot be compared with texts"
    if problem:
        raise ExtractUsageError(
            f"{store.location} {problem}; extract the images into another store: "
            f"clipfeat extract --pooled --out OTHER",
            code="E-TEXTS-EMBEDDINGS",
        )
