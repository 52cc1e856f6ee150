"""Where a cell stands: a learned vector from its coordinates, for any grid shape."""

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

# Wavelengths of the position signal, in grids: 2 orders the whole grid, 1/4 tells apart the
# neighbours of a grid of 8 cells a side.
WAVELENGTHS = (2.0, 1.0, 0.5, 0.25)


class GridPlace(nn.Module):
    """A learned vector for each cell's place, from coordinates in 0..1, for any grid shape."""

    wavelengths: Float32[Tensor, " wave"]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(4 * len(WAVELENGTHS), channels)
        # A tensor made in the forward pass would make a GPU wait for the host.
        self.register_buffer("wavelengths", torch.tensor(WAVELENGTHS), persistent=False)

    def forward(
        self, grid_shapes: Int[Tensor, "image 2"], cells: int
    ) -> Float[Tensor, "image cell channel"]:
        """Return the places of the first `cells` cells, row by row; past a grid, of no meaning."""
        rows, cols = grid_shapes[:, :1], grid_shapes[:, 1:]  # image 1
        cell = torch.arange(cells, device=grid_shapes.device)
        place = torch.stack(((cell // cols + 0.5) / rows, (cell % cols + 0.5) / cols), dim=-1)
        angles = (2 * torch.pi * place[..., None] / self.wavelengths).flatten(-2)  # image cell 8
        return self.project(torch.cat((angles.sin(), angles.cos()), dim=-1))
