"""The cells of a grid as a captioner reads them."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...grids.normalize import FeatureNorm
from ...models.places import GridPlace
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
