"""How similar a text is to each cell of a grid, by the weights that computed the grid.

A cell is taken through the layers that lead from the grid to the image's embedding, but alone: of a
ResNet through the value and output projections of the attention pool, without its attention and its
positions, of a ViT through the final norm and the projection (MaskCLIP: Zhou, Loy and Dai, Extract
Free Dense Labels from CLIP, ECCV 2022).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ..base.errors import StoreError, StoreUsageError, how_to_install, needs_extra
from ..featstore import FeatureStore
from ..featstore.identity import IMPORTED
from ..featstore.recipes import before_pooling
from .records import Grid, shown_numbers, unit_rows

KEPT_TEXTS = 64  # vectors of the last ones
LIMITS = (
    "CLIP was trained to compare texts with whole images, so a map shows where a text fits better or "
    "worse, not whether it is true; numbers of two texts should not be compared."
)


class WeightFiles(NamedTuple):
    """What an extraction was given where the weights came from a file."""

    pretrained: str | None = None
    model_config: str | None = None
    ema: bool = False


class TextModel(NamedTuple):
    """A text tower, and the way from a cell to the space of its vectors."""

    embed: Callable[[str], np.ndarray]  # to (dim,) float32 of length 1
    project: Callable[[np.ndarray], np.ndarray]  # (cell, channel) float32 to (cell, dim)
    says: str


class CellTexts:
    """Heat maps of texts over the cells of one store. The weights are loaded when first needed."""

    def __init__(self, store: FeatureStore, files: WeightFiles):
        self._store = store
        self._files = files
        self._lock = Lock()
        self._model: TextModel | None = None

    @property
    def problem(self) -> str:
        """Why there can be no heat maps, as far as it is known without the weights; "" if there may."""
        backbone, model = self._store.identity.backbone, self._store.identity.backbone.get("model")
        if find_spec("open_clip") is None:
            return f"this needs open_clip; {how_to_install('extract')}"
        if model == IMPORTED or not isinstance(model, str):
            return "the features were made by another program, whose text tower is not known"
        if model.startswith("timm/"):
            return f"{model} was trained without texts"
        if not isinstance(backbone.get("weights_sha256"), str):
            return "the store does not say which weights it was made with"
        if backbone.get("pretrained") == "file" and self._files.pretrained is None:
            return "the weights came from a file: start clipfeat view with --pretrained PATH"
        if _recipe(self._store).get("layer") == "penultimate":
            return "the cells are those of the last layer but one, which leads to no embedding"
        return ""

    def heat(self, grid: Grid, text: str) -> dict[str, Any]:
        """Return the cosine between a text and each cell.

        Raises StoreUsageError (E-VIEW-TEXT) where there is no way from the cells to the texts, and
        ExtractUsageError for weights that are absent or not the store's.
        """
        if not text.strip():
            raise StoreUsageError("the text is empty; type one", code="E-VIEW-TEXT")
        if problem := self.problem:
            raise StoreUsageError(problem, code="E-VIEW-TEXT")
        with self._lock:  # one at a time: each uses all cores
            if self._model is None:
                self._model = _load(self._store, self._files)
            model = self._model
            vector = model.embed(text)
            with np.errstate(invalid="ignore"):
                cosines = unit_rows(model.project(grid.cells)) @ vector
        return {"heat": shown_numbers(cosines), "says": f"{model.says} {LIMITS}"}


def _recipe(store: FeatureStore) -> Mapping[str, Any]:
    try:
        return before_pooling(store.identity)[0]
    except StoreError:
        return {}


def _load(store: FeatureStore, files: WeightFiles) -> TextModel:
    with needs_extra("extract"):
        from ..extract.embedding import backbone_spec, check_weights, load_towers
    spec = backbone_spec(store, files.pretrained, files.model_config, ema=files.ema)
    tower, visual, described = load_towers(spec, "cpu")
    check_weights(store, spec, described)
    recipe = _recipe(store)
    if recipe.get("views") is not None:  # its cells are embeddings
        project, says = _as_they_are, "The cosine between the text and the embedding of each view."
    else:
        project, says = projection(visual, str(recipe.get("layer")))

    @lru_cache(KEPT_TEXTS)
    def embed(text: str) -> np.ndarray:
        return tower.embed([text], progress=False)[0]

    return TextModel(embed, project, says)


def _as_they_are(cells: np.ndarray) -> np.ndarray:
    return cells


def projection(visual: Any, layer: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Return the way from the cells of an image tower of open_clip to its embeddings, and its name.

    `layer` is that of the recipe. The function takes (cell, channel) float32 and returns (cell, dim).
    It keeps no more of the tower than it needs. Raises StoreUsageError (E-VIEW-TEXT) for towers
    whose embedding is not a sum over cells.
    """
    import torch

    pool = getattr(visual, "attnpool", None)
    if pool is not None and hasattr(pool, "v_proj"):
        norm, weight = None, pool.c_proj.weight @ pool.v_proj.weight  # one matrix for both
        bias = pool.c_proj.weight @ pool.v_proj.bias + pool.c_proj.bias
        says = (
            "The cosine between the text and each cell, taken through the value and output "
            "projections of the attention pool, without its attention and its positions."
        )
    elif getattr(visual, "proj", None) is not None and getattr(visual, "attn_pool", None) is None:
        # The tower norms the patches of the layer "final", unless it norms the pooled vector.
        is_normed = layer == "final" and not visual.final_ln_after_pool
        norm, weight, bias = None if is_normed else visual.ln_post, visual.proj.T, None
        says = (
            "The cosine between the text and each patch, taken through the final projection as if it "
            "were the class token."
        )
    else:
        raise StoreUsageError(
            f"an image tower of this kind ({type(visual).__name__}) has no way from a cell to the "
            f"space of texts that is known here; ResNets and ViTs of CLIP have",
            code="E-VIEW-TEXT",
        )
    weight = weight.detach().contiguous()  # of its own: the tower can go
    bias = None if bias is None else bias.detach()

    @torch.inference_mode()
    def project(cells: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(cells))
        normed = given if norm is None else norm(given)
        return torch.nn.functional.linear(normed, weight, bias).numpy()

    return project, says
