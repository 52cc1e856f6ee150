"""UpDn: a question attends to the cells of a grid, once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..normalize import FeatureNorm
from .data import PADDING

# Wavelengths of the position signal, in grids: 2 orders the whole grid, 1/4 tells apart the
# neighbours of a grid of 8 cells a side.
WAVELENGTHS = (2.0, 1.0, 0.5, 0.25)
PLACE = 64  # channels of a place


class QuestionEncoder(nn.Module):
    """The last state of a GRU over a question's words."""

    def __init__(self, *, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, embedding, padding_idx=PADDING)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)

    def forward(self, tokens: Int[Tensor, "question token"]) -> Float[Tensor, "question hidden"]:
        """Return one vector a question; padding after the last word changes nothing."""
        states, _ = self.gru(self.words(tokens))  # question token hidden
        last = (tokens != PADDING).sum(dim=1) - 1
        return states[torch.arange(len(tokens), device=tokens.device), last]


class GridPlace(nn.Module):
    """A learned vector for each cell's place, from coordinates in 0..1, for any grid shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(4 * len(WAVELENGTHS), channels)

    def forward(
        self, grid_shapes: Int[Tensor, "image 2"], cells: int
    ) -> Float[Tensor, "image cell channel"]:
        """Return the places of the first `cells` cells, row by row; past a grid, of no meaning."""
        rows, cols = grid_shapes[:, :1], grid_shapes[:, 1:]  # image 1
        cell = torch.arange(cells, device=grid_shapes.device)
        place = torch.stack(((cell // cols + 0.5) / rows, (cell % cols + 0.5) / cols), dim=-1)
        wavelengths = torch.tensor(WAVELENGTHS, device=place.device)
        angles = (2 * torch.pi * place[..., None] / wavelengths).flatten(-2)  # image cell 8
        return self.project(torch.cat((angles.sin(), angles.cos()), dim=-1))


class UpDn(nn.Module):
    """Top-down attention over grid cells, in the manner of Anderson et al. 2018, section 3.3.

    Differences: a cell is its features and its place side by side, since it has no box; a
    product in place of a concatenation scores a cell; ReLU in place of gated tanh.
    """

    def __init__(
        self,
        norm: FeatureNorm,
        *,
        tokens: int,
        answers: int,
        embedding: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.question = QuestionEncoder(tokens=tokens, embedding=embedding, hidden=hidden)
        self.appearance = nn.Sequential(
            nn.Linear(len(norm.mean), hidden), nn.LayerNorm(hidden), nn.ReLU()
        )
        self.place = GridPlace(PLACE)
        self.query = nn.Sequential(nn.Linear(hidden, hidden + PLACE), nn.ReLU())
        self.attention = nn.Linear(hidden + PLACE, 1, bias=False)  # softmax drops a bias
        self.question_for_fusion = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.image_for_fusion = nn.Sequential(nn.Linear(hidden + PLACE, hidden), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden, answers),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
        image_of_question: Int[Tensor, " question"],
        tokens: Int[Tensor, "question token"],
    ) -> tuple[Float[Tensor, "question answer"], Float[Tensor, "question cell"]]:
        """Return each question's logits and its attention weights, which sum to 1 over cells.

        `mask` is true for real cells; what padding cells hold changes nothing.
        """
        question = self.question(tokens)  # question hidden
        appearance = self.appearance(self.norm(features, mask))  # image cell hidden
        place = self.place(grid_shapes, features.shape[1]).to(appearance.dtype)
        cells = self.dropout(torch.cat((appearance, place), dim=-1))

        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, image_of_question)  # question cell hidden+place
        scores = self.attention(self.dropout(cells * self.query(question)[:, None])).squeeze(-1)
        scores = scores.masked_fill(~mask.index_select(0, image_of_question), -torch.inf)
        weights = scores.softmax(dim=-1)  # question cell
        attended = torch.einsum("qc,qch->qh", weights.to(cells.dtype), cells)

        fused = self.question_for_fusion(question) * self.image_for_fusion(attended)
        return self.classifier(fused), weights
