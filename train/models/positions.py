"""Where a cell is, as vectors: its row and column in a grid, or the box of a region."""

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from ..normalize import FeatureNorm
from ..records import BOX

# Wavelengths of the position signal, in grids: 2 orders the whole grid, 1/4 separates the
# neighbours of a grid of 8 cells a side.
WAVELENGTHS = (2.0, 1.0, 0.5, 0.25)


class GridPosition(nn.Module):
    """A learned vector for each cell's position, from coordinates in 0..1, for any grid shape."""

    wavelengths: Float32[Tensor, " wave"]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(4 * len(WAVELENGTHS), channels)
        # A tensor made in the forward pass would make a GPU wait for the host.
        self.register_buffer("wavelengths", torch.tensor(WAVELENGTHS), persistent=False)

    def forward(
        self,
        cells: Float[Tensor, "image cell _"],
        grid_shapes: Int[Tensor, "image 2"],
        boxes: Float32[Tensor, "_ _ 5"],
    ) -> Float[Tensor, "image cell channel"]:
        """Return the positions of cells, row by row, in their dtype; meaningless past a grid."""
        rows, cols = grid_shapes[:, :1], grid_shapes[:, 1:]  # image 1
        cell = torch.arange(cells.shape[1], device=grid_shapes.device)
        position = torch.stack(((cell // cols + 0.5) / rows, (cell % cols + 0.5) / cols), dim=-1)
        angles = (2 * torch.pi * position[..., None] / self.wavelengths).flatten(-2)  # image cell 8
        return self.project(torch.cat((angles.sin(), angles.cos()), dim=-1)).to(cells.dtype)


class BoxPosition(nn.Module):
    """A learned vector for each region's box, as in ViLBERT (arXiv:1908.02265, section 2.2).

    It is a linear layer over left, top, right, bottom and area, as shares of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(BOX, channels)

    def forward(
        self,
        cells: Float[Tensor, "image cell _"],
        grid_shapes: Int[Tensor, "image 2"],
        boxes: Float32[Tensor, "image cell 5"],
    ) -> Float[Tensor, "image cell channel"]:
        """Return the positions of regions, in the dtype of their cells."""
        return self.project(boxes).to(cells.dtype)


def new_position(norm: FeatureNorm, channels: int) -> GridPosition | BoxPosition:
    """Return the positions of what a model reads: of cells of grids, or of regions."""
    return BoxPosition(channels) if norm.regions else GridPosition(channels)


def add_positions(
    cells: Float[Tensor, "image cell channel"],
    position: nn.Module | None,
    grid_shapes: Int[Tensor, "image 2"],
    boxes: Float32[Tensor, "_ _ 5"],
) -> Float[Tensor, "image cell channel"]:
    """Return cells with the vectors of `new_position` added; None adds nothing."""
    return cells if position is None else cells + position(cells, grid_shapes, boxes)
