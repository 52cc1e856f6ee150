"""Position tables fitted to explicit rows and columns."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# What timm calls the parameters that belong to places, in any of its towers.
TIMM_TABLES = ("pos_embed", "relative_position_bias_table")


class Positions(ABC):
    """What a tower knows of places. `fit` must not run beside a forward pass."""

    @abstractmethod
    def fit(self, grid: tuple[int, int]) -> None:
        """Make the tower ready for images of (rows, cols) cells.

        Always from the table it was made with, in float32: fitting a table that was fitted before
        would blur it a little more each time.
        """


class TablePositions(Positions):
    """The table `positional_embedding` of open_clip's own modules."""

    def __init__(self, owner: Any, grid: tuple[int, int]):
        self._owner = owner
        self._table = owner.positional_embedding.detach().float().clone()
        self._native = self._grid = grid

    def fit(self, grid: tuple[int, int]) -> None:
        if grid == self._grid:
            return
        now = self._owner.positional_embedding
        table = interpolate_positions(self._table, self._native, grid).to(now.device, now.dtype)
        self._owner.positional_embedding = nn.Parameter(table, requires_grad=False)
        self._grid = grid


class TimmPositions(Positions):
    """Tables, rotary angles and windows of a timm tower, which `set_input_size` fits."""

    def __init__(self, visual: Any, cell: tuple[int, int]):
        self._visual, self._cell = visual, cell
        self._has_any = hasattr(visual.trunk, "set_input_size")  # convolutions know no places
        if self._has_any:
            self._native = self._size = visual.trunk.patch_embed.img_size
            self._tables = {
                name: parameter.detach().float().clone()
                for name, parameter in visual.trunk.named_parameters()
                if name.rpartition(".")[2] in TIMM_TABLES
            }

    def fit(self, grid: tuple[int, int]) -> None:
        size = (grid[0] * self._cell[0], grid[1] * self._cell[1])
        if not self._has_any or size == self._size:
            return
        trunk = self._visual.trunk
        dtypes = {name: trunk.get_parameter(name).dtype for name in self._tables}
        self._visual.set_input_size(self._native)
        for name, table in self._tables.items():
            parameter = trunk.get_parameter(name)
            parameter.data = table.to(parameter.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how timm fits the tables of Swin
            self._visual.set_input_size(size)
        for name, dtype in dtypes.items():
            parameter = trunk.get_parameter(name)
            parameter.data = parameter.data.to(dtype)
        self._size = size


def interpolate_positions(
    table: Float[Tensor, "positions dim"], native: tuple[int, int], target: tuple[int, int]
) -> Float[Tensor, "new_positions dim"]:
    """Return a position table made for a grid of `native` (rows, cols), fitted to `target`.

    The first row belongs to the class token and is kept. Bicubic with antialiasing, as
    open_clip resizes its tables; but to explicit rows and cols: a square assumed from the
    number of cells is what silently broke the published ViT grids (CLIP-ViL issue 13).
    """
    first, cells = table[:1], table[1:]
    image = cells.reshape(1, *native, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(
        image, size=target, mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([first, image.permute(0, 2, 3, 1).reshape(target[0] * target[1], -1)])
