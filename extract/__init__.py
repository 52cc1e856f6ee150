"""Images to grids: run images through a frozen CLIP and keep the grid of each in a store.

The names below are the public face. Those of other modules are imported when first used, so that
`import clipfeat.extract` brings neither torch nor open_clip.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..base.errors import ExtractError, UsageError

if TYPE_CHECKING:
    from .api import extract_images
    from .planning.config import ExtractConfig
    from .planning.recipe import Recipe
    from .report import ExtractReport

__all__ = [
    "ExtractConfig",
    "ExtractError",
    "ExtractReport",
    "Recipe",
    "UsageError",
    "extract_images",
]

_MODULES = {
    "ExtractConfig": ".planning.config",
    "ExtractReport": ".report",
    "Recipe": ".planning.recipe",
    "extract_images": ".api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
