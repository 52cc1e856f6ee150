"""The cells of a grid as a captioner reads them."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..records import FeatureNorm
from .layers import GridPlace
from .settings import CellSettings


class Cells(nn.Module):
    """Standardised features, projected, as in CLIP-ViL's captioner; and their places, if wished."""

    def __init__(self, settings: CellSettings, norm: FeatureNorm, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.project = nn.Sequential(
            nn.Linear(len(norm.mean), channels), nn.ReLU(), nn.Dropout(settings.cell_dropout)
        )
        self.place = GridPlace(channels) if settings.positions else None

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
    ) -> Float[Tensor, "image cell channel"]:
        """Return the cells; those of padding are finite and of no meaning."""
        cells = self.project(self.norm(features, mask))
        if self.place is not None:
            cells = cells + self.place(grid_shapes, features.shape[1]).to(cells.dtype)
        return cells


Rows = TypeVar("Rows", bound=tuple[Tensor, ...])


class Captioner(nn.Module, ABC):
    """A model that writes a caption word by word, each from the image and the words before.

    A memory is what it keeps of images, a state what it keeps of captions begun: NamedTuples of
    tensors whose first dimension is the image, and the caption. There may be several captions of
    each image, equally many and side by side: of 6 captions and a memory of 2 images the first 3
    are of the first. `select` repeats or reorders either. No step changes a memory or a state
    that it is given.
    """

    @abstractmethod
    def encode(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
    ) -> Any:
        """Return the memory of images; `mask` is true for real cells, and no other counts."""

    @abstractmethod
    def logits(
        self, memory: Any, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word that follows each token, given those up to it.

        The tokens begin with BEGIN; padding at the end changes nothing before it.
        """

    @abstractmethod
    def attention(
        self, memory: Any, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return where the model looks for the word that follows each token; sums to 1."""

    @abstractmethod
    def start(self, memory: Any) -> Any:
        """Return the state of one caption an image, of which nothing is written."""

    @abstractmethod
    def step(
        self, memory: Any, state: Any, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], Any]:
        """Return the logits of the next word after `last`, and the state that has read `last`."""

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
        image_of_caption: Int[Tensor, " caption"],
        tokens: Int[Tensor, "caption token"],
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word that follows each token of captions of any images."""
        memory = select(self.encode(features, mask, grid_shapes), image_of_caption)
        return self.logits(memory, tokens)


def select(rows: Rows, numbers: Int[Tensor, " row"]) -> Rows:
    """Return the named rows of a memory or a state, in that order, some perhaps several times."""
    make: Any = type(rows)
    return make(*(tensor.index_select(0, numbers) for tensor in rows))
