"""UpDn: a question attends to the cells of a grid, once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..data.words import PADDING
from ..records import FeatureNorm
from .layers import GridPlace, Outputs, Words, masked_softmax
from .settings import UpDnSettings

PLACE = 64  # channels of a place


class QuestionEncoder(nn.Module):
    """The last state of a GRU over a question's words."""

    def __init__(self, *, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.words = Words(tokens, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)

    def forward(self, tokens: Int[Tensor, "text token"]) -> Float[Tensor, "text hidden"]:
        """Return one vector a question; padding after the last word changes nothing."""
        states, _ = self.gru(self.words(tokens))  # text token hidden
        last = (tokens != PADDING).sum(dim=1) - 1
        return states[torch.arange(len(tokens), device=tokens.device), last]


class UpDn(nn.Module):
    """Top-down attention over grid cells, in the manner of Anderson et al. 2018, section 3.3.

    Differences: a cell is its features and its place side by side, since it has no box; a
    product in place of a concatenation scores a cell; ReLU in place of gated tanh.
    """

    def __init__(
        self, settings: UpDnSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        cell = hidden + PLACE if settings.positions else hidden
        self.norm = norm
        self.question = QuestionEncoder(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.appearance = nn.Sequential(
            nn.Linear(len(norm.mean), hidden), nn.LayerNorm(hidden), nn.ReLU()
        )
        self.place = GridPlace(PLACE) if settings.positions else None
        self.query = nn.Sequential(nn.Linear(hidden, cell), nn.ReLU())
        self.attention = nn.Linear(cell, 1, bias=False)  # softmax drops a bias
        self.question_for_fusion = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.image_for_fusion = nn.Sequential(nn.Linear(cell, hidden), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden, answers),
        )
        self.dropout = nn.Dropout(dropout)

    @property
    def words(self) -> Words:
        """The vectors of words."""
        return self.question.words

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
        image_of_text: Int[Tensor, " text"],
        tokens: Int[Tensor, "text token"],
    ) -> Outputs:
        """Return each text's logits and its attention weights, which sum to 1 over cells.

        `mask` is true for real cells; what padding cells hold changes nothing.
        """
        question = self.question(tokens)  # text hidden
        cells = self.appearance(self.norm(features, mask))  # image cell hidden
        if self.place is not None:
            place = self.place(grid_shapes, features.shape[1]).to(cells.dtype)
            cells = torch.cat((cells, place), dim=-1)
        cells = self.dropout(cells)

        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, image_of_text)  # text cell hidden+place
        scores = self.attention(self.dropout(cells * self.query(question)[:, None])).squeeze(-1)
        weights = masked_softmax(scores, mask.index_select(0, image_of_text))  # text cell
        attended = torch.einsum("tc,tch->th", weights.to(cells.dtype), cells)

        fused = self.question_for_fusion(question) * self.image_for_fusion(attended)
        return Outputs(self.classifier(fused), weights)
