"""MoVie and MCAN in three branches, the winner of the VQA challenge of 2020."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..grids.normalize import FeatureNorm
from .attention import Reduction
from .coattention import GuidedAttention, SelfAttention
from .fusion import SumHead
from .movie import Movie, cell_maps
from .outputs import Outputs
from .places import GridPlace
from .settings import MovieMcanSettings
from .states import WordStates
from .words import Words


class MovieMcan(nn.Module):
    """The three-branch model of Nguyen et al. 2020 (MoVie), section 3.3, after mmf's `movie_mcan`.

    Words are reduced to two vectors: one modulates MoVie, one is the question in the heads. As
    in mmf, a head fuses question, MCAN and MoVie, and two further heads, trained beside it, see
    MCAN with the question and MoVie alone. Differences from mmf: `clipfeat.train.models.movie`
    lists those of its blocks, which read features projected to `hidden`, once an image, where
    mmf's first block reads the features themselves; biases that softmax drops are left out.
    """

    def __init__(
        self, settings: MovieMcanSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        dim, hidden, joint = len(norm.mean), settings.hidden, settings.joint
        heads, dropout = settings.heads, settings.dropout
        self.norm = norm
        self.states = WordStates(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.encoder = nn.ModuleList(
            SelfAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.reduce_words = Reduction(hidden, inner=hidden // 2, glimpses=2, dropout=dropout)
        self.place = GridPlace(hidden) if settings.positions else None

        self.mcan_appearance = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden))
        self.decoder = nn.ModuleList(
            GuidedAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.reduce_cells = Reduction(hidden, inner=hidden // 2, glimpses=1, dropout=dropout)

        self.movie_appearance = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden))
        self.movie = Movie(hidden, settings.movie_layers)

        self.head = SumHead(hidden, vectors=3, joint=joint, answers=answers)
        self.mcan_head = SumHead(hidden, vectors=2, joint=joint, answers=answers)
        self.movie_head = SumHead(hidden, vectors=1, joint=joint, answers=answers)

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
        """Return each text's logits, MCAN's weights over cells, and the logits of two branches.

        `mask` is true for real cells; what padding cells hold changes nothing.
        """
        words, real = self.states(tokens)
        for layer in self.encoder:
            words = layer(words, real)
        vectors, _ = self.reduce_words(words, real)
        modulator, question = vectors.unbind(dim=1)  # text hidden

        features = self.norm(features, mask)
        cells, movie_cells = self.mcan_appearance(features), self.movie_appearance(features)
        if self.place is not None:
            place = self.place(grid_shapes, features.shape[1]).to(cells.dtype)
            cells, movie_cells = cells + place, movie_cells + place

        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, image_of_text)  # text cell hidden
        seen = mask.index_select(0, image_of_text)
        for layer in self.decoder:
            cells = layer(cells, seen, words, real)
        glimpse, weights = self.reduce_cells(cells, seen)
        mcan = glimpse[:, 0]

        maps, on_map = cell_maps(movie_cells, mask, grid_shapes)  # image row col hidden
        maps, on_map = (part.index_select(0, image_of_text) for part in (maps, on_map))
        movie = self.movie(maps, on_map, modulator)
        branches = (self.mcan_head(question, mcan), self.movie_head(movie))
        return Outputs(self.head(question, mcan, movie), weights[:, 0], branches)
