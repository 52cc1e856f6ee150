"""The captioners there are, and the sizes of each; without torch, so that mistakes cost nothing."""

import dataclasses
from typing import Literal

from ....base.errors import UsageError
from ...models.settings import require_heads, require_layers, require_sizes
from ...settings import require_share


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellSettings:
    """How every captioner here reads the cells of a grid."""

    positions: bool = False  # cells carry their place in the grid
    cell_dropout: float = 0.5  # of projected cells

    def __post_init__(self) -> None:
        require_share(self, "cell_dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSettings(CellSettings):
    """A transformer, in the sizes of CLIP-ViL's captioning experiments."""

    name: Literal["transformer"] = "transformer"
    hidden: int = 512  # channels of words and cells; a feed-forward layer has four times as many
    layers: int = 6  # over cells, and as many over words
    heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden", "heads")
        require_layers(self, "layers")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)
        if self.hidden % 2:
            raise UsageError(f"hidden must be even, for sines and cosines; got {self.hidden}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpDnSettings(CellSettings):
    """Bottom-up and top-down attention, in the sizes of Anderson et al. 2018."""

    name: Literal["updn"] = "updn"
    embedding: int = 1000  # channels of a word
    hidden: int = 1000  # channels of both LSTMs, and of a cell
    attention: int = 512  # channels in which cells are weighed
    dropout: float = 0.5  # of words, and of the state that a word is chosen from

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "embedding", "hidden", "attention")
        require_share(self, "dropout")


CaptionerSettings = TransformerSettings | UpDnSettings
