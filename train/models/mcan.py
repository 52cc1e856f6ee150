"""MCAN: deep modular co-attention between the words of a text and the cells of a grid."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..grids.normalize import FeatureNorm
from .attention import Reduction
from .coattention import GuidedAttention, SelfAttention
from .fusion import SumHead
from .outputs import Outputs
from .places import GridPlace
from .settings import McanSettings
from .states import WordStates
from .words import Words


class Mcan(nn.Module):
    """The encoder-decoder cascade of Yu et al. 2019 (MCAN), section 3.

    Differences from OpenVQA's code: biases that softmax drops are left out, and the reduction is
    `hidden` wide inside at every size, as in the paper, where OpenVQA's large model keeps 512.
    """

    def __init__(
        self, settings: McanSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        hidden, heads, dropout = settings.hidden, settings.heads, settings.dropout
        self.norm = norm
        self.states = WordStates(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.appearance = nn.Sequential(nn.Linear(len(norm.mean), hidden), nn.LayerNorm(hidden))
        self.place = GridPlace(hidden) if settings.positions else None
        self.encoder = nn.ModuleList(
            SelfAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.decoder = nn.ModuleList(
            GuidedAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.reduce_words = Reduction(hidden, inner=hidden, glimpses=1, dropout=dropout)
        self.reduce_cells = Reduction(hidden, inner=hidden, glimpses=1, dropout=dropout)
        self.head = SumHead(hidden, vectors=2, joint=settings.joint, answers=answers)

    @property
    def words(self) -> Words:
        """The vectors of words."""
        return self.states.words

    def forward(
        self,
        features: Float[Tensor, "image cell dim"],
        mask: Bool[Tensor, "image cell"],
        grid_shapes: Int[Tensor, "image 2"],
        image_of_text: Int[Tensor, " text"],
        tokens: Int[Tensor, "text token"],
    ) -> Outputs:
        """Return each text's logits and the weights of the last reduction over cells.

        `mask` is true for real cells; what padding cells hold changes nothing.
        """
        words, real = self.states(tokens)
        for layer in self.encoder:
            words = layer(words, real)

        cells = self.appearance(self.norm(features, mask))  # image cell hidden
        if self.place is not None:
            cells = cells + self.place(grid_shapes, features.shape[1]).to(cells.dtype)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, image_of_text)  # text cell hidden
        seen = mask.index_select(0, image_of_text)
        for layer in self.decoder:
            cells = layer(cells, seen, words, real)

        text, _ = self.reduce_words(words, real)  # text 1 hidden
        image, weights = self.reduce_cells(cells, seen)
        return Outputs(self.head(text[:, 0], image[:, 0]), weights[:, 0])
