"""What a captioner is: it encodes images once, then writes captions word by word."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..normalize import FeatureNorm
from ..records import Records
from .positions import add_positions, new_position
from .settings import CellSettings


class Cells(nn.Module):
    """Normalised features, projected as in CLIP-ViL's captioner, with positions if set."""

    def __init__(self, settings: CellSettings, norm: FeatureNorm, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.project = nn.Sequential(
            nn.Linear(norm.channels, channels), nn.ReLU(), nn.Dropout(settings.cell_dropout)
        )
        self.position = new_position(norm, channels) if settings.positions else None

    def forward(
        self, records: Records
    ) -> tuple[Float[Tensor, "image cell channel"], Bool[Tensor, "image cell"]]:
        """Return the cells, and which are real; those of padding are finite and meaningless."""
        mask, boxes = self.norm.seen(records.mask, records.boxes)
        cells = self.project(self.norm(records.features, mask))
        return add_positions(cells, self.position, records.grid_shapes, boxes), mask


Rows = TypeVar("Rows", bound=tuple[Tensor, ...])
Result = TypeVar("Result")


class Captioner(nn.Module, ABC):
    """A model that writes a caption word by word, each from the image and the words before.

    A memory is what it keeps of images, a state what it keeps of unfinished captions: NamedTuples
    of tensors whose first dimension is the image or the caption. There may be several captions of
    each image, the same number for each and next to each other: of 6 captions and a memory of 2
    images the first 3 are of the first image. `select` repeats or reorders either. No method
    changes a memory or a state that it is given.
    """

    @abstractmethod
    def encode(self, records: Records) -> Any:
        """Return the memory of images; only cells where the mask is true have an effect."""

    @abstractmethod
    def logits(
        self, memory: Any, tokens: Int[Tensor, "caption token"]
    ) -> Float[Tensor, "caption token word"]:
        """Return the logits of the word after each token, given the tokens up to it.

        The tokens begin with BEGIN; padding at the end changes nothing before it.
        """

    @abstractmethod
    def attention(
        self, memory: Any, tokens: Int[Tensor, "caption token"]
    ) -> Float32[Tensor, "caption token cell"]:
        """Return the attention over cells for the word after each token; it sums to 1."""

    @abstractmethod
    def start(self, memory: Any) -> Any:
        """Return the state of one empty caption per image."""

    @abstractmethod
    def step(
        self, memory: Any, state: Any, last: Int[Tensor, " caption"]
    ) -> tuple[Float[Tensor, "caption word"], Any]:
        """Return the logits of the word after `last`, and the state that has read `last`."""

    def forward(self, records: Records, read: Callable[["Captioner", Any], Result]) -> Result:
        """Return what `read` computes from this model and the memory of `records`.

        What is trained must be computed in such a call: several GPUs synchronize the gradients of
        calls, not those of methods.
        """
        return read(self, self.encode(records))


def select(rows: Rows, numbers: Int[Tensor, " row"]) -> Rows:
    """Return rows of a memory or a state in the order of `numbers`, which may repeat."""
    make: Any = type(rows)
    return make(*(tensor.index_select(0, numbers) for tensor in rows))
