"""MoVie+MCAN: convolutions over the grid, modulated by the question, beside MCAN's attention."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..normalize import FeatureNorm
from .layers import AnswerBatch, GridPosition, Outputs, Reduction, SumHead, WordStates
from .mcan import GuidedAttention, SelfAttention
from .settings import MovieMcanSettings


def cell_maps(
    cells: Float[Tensor, "image cell channel"],
    mask: Bool[Tensor, "image cell"],
    grid_shapes: Int[Tensor, "image 2"],
) -> tuple[Float[Tensor, "image row col channel"], Bool[Tensor, "image row col"]]:
    """Return grids as maps with the largest numbers of rows and columns, and which cells are real.

    The maps are zero elsewhere: outside a grid, and in its cells where `mask` is false.
    """
    rows, cols = grid_shapes[:, 0, None, None], grid_shapes[:, 1, None, None]
    height, width = grid_shapes.amax(dim=0).tolist()
    row = torch.arange(height, device=cells.device)[:, None]
    col = torch.arange(width, device=cells.device)
    inside = (row < rows) & (col < cols)  # image row col
    first = torch.arange(len(cells), device=cells.device)[:, None, None] * cells.shape[1]
    cell = torch.where(inside, first + row * cols + col, 0).flatten()  # of all images' cells
    real = inside & mask.flatten().index_select(0, cell).view(inside.shape)
    maps = cells.flatten(0, 1).index_select(0, cell).unflatten(0, inside.shape)
    return maps.masked_fill(~real[..., None], 0.0), real


class ModulatedBottleneck(nn.Module):
    """A bottleneck of Nguyen et al. 2020 (MoVie), section 3: the question scales its input.

    Differences: a norm over the channels of each position in place of BatchNorm, whose
    statistics would include padding and the other images of a batch (mmf freezes its BatchNorm
    untrained, so that it has no effect); the question scales the whole input by 1 + delta, where
    mmf adds a second projection of delta times the input; no squeeze-and-excitation, which mmf has.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.delta = nn.Linear(channels, channels)
        self.narrow = nn.Linear(channels, inner, bias=False)  # a 1x1 convolution
        self.narrow_norm = nn.LayerNorm(inner)
        self.around = nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.around_norm = nn.LayerNorm(inner)
        self.widen = nn.Linear(inner, channels, bias=False)
        self.widen_norm = nn.LayerNorm(channels)

    def forward(
        self,
        maps: Float[Tensor, "text row col channel"],
        real: Bool[Tensor, "text row col"],
        question: Float[Tensor, "text channel"],
    ) -> Float[Tensor, "text row col channel"]:
        """Return the maps after one block; zero where `real` is false, as the inputs must be."""
        padding = ~real[..., None]
        modulated = maps * (1 + self.delta(question))[:, None, None]
        inner = self.narrow_norm(self.narrow(modulated)).relu()
        # A norm's bias fills padding, and the convolution would spread it to real neighbours.
        inner = inner.masked_fill(padding, 0.0).permute(0, 3, 1, 2)  # text inner row col
        inner = self.around_norm(self.around(inner).permute(0, 2, 3, 1)).relu()
        return (maps + self.widen_norm(self.widen(inner))).relu().masked_fill(padding, 0.0)


class Movie(nn.Module):
    """Modulated bottlenecks, then the normalised mean over real positions.

    mmf pads every map with zeros to 32x32, convolves the padding too, and takes the mean over the
    whole map; here a map is as large as the batch needs, and padding stays zero.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ModulatedBottleneck(channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        maps: Float[Tensor, "text row col channel"],
        real: Bool[Tensor, "text row col"],
        question: Float[Tensor, "text channel"],
    ) -> Float[Tensor, "text channel"]:
        """Return one vector per text; `maps` must be zero where `real` is false."""
        for block in self.blocks:
            maps = block(maps, real, question)
        # float32: under autocast a sum over a large grid would lose its last cells
        return self.norm(maps.float().sum(dim=(1, 2)) / real.sum(dim=(1, 2))[:, None])


class MovieMcan(nn.Module):
    """The three-branch model of Nguyen et al. 2020 (MoVie), section 3.3, after mmf's `movie_mcan`.

    Words are reduced to two vectors: one modulates MoVie, one is the question in the heads. As in
    mmf, one head fuses question, MCAN and MoVie, and two auxiliary heads see MCAN with the question
    and MoVie alone. Differences from mmf: those of `ModulatedBottleneck`; the blocks read features
    projected to `hidden`, once per image, where mmf's first block reads the features themselves;
    biases that softmax cancels are left out.
    """

    def __init__(
        self, settings: MovieMcanSettings, norm: FeatureNorm, *, tokens: int, answers: int
    ) -> None:
        super().__init__()
        dim, hidden, joint = norm.channels, settings.hidden, settings.joint
        heads, dropout = settings.heads, settings.dropout
        self.norm = norm
        self.states = WordStates(tokens=tokens, embedding=settings.embedding, hidden=hidden)
        self.encoder = nn.ModuleList(
            SelfAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.reduce_words = Reduction(hidden, inner=hidden // 2, glimpses=2, dropout=dropout)
        self.position = GridPosition(hidden) if settings.positions else None

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

    def forward(self, batch: AnswerBatch) -> Outputs:
        """Return each text's logits, MCAN's weights over cells, and the logits of two further heads.

        The contents of padding cells change nothing.
        """
        words, real = self.states(batch.tokens)
        for layer in self.encoder:
            words = layer(words, real)
        vectors, _ = self.reduce_words(words, real)
        modulator, question = vectors.unbind(dim=1)  # text hidden

        features = self.norm(batch.features, batch.mask)
        cells, movie_cells = self.mcan_appearance(features), self.movie_appearance(features)
        if self.position is not None:
            position = self.position(batch.grid_shapes, features.shape[1]).to(cells.dtype)
            cells, movie_cells = cells + position, movie_cells + position

        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = cells.index_select(0, batch.image_of_text)  # text cell hidden
        seen = batch.mask.index_select(0, batch.image_of_text)
        for layer in self.decoder:
            cells = layer(cells, seen, words, real)
        glimpse, weights = self.reduce_cells(cells, seen)
        mcan = glimpse[:, 0]

        maps, on_map = cell_maps(movie_cells, batch.mask, batch.grid_shapes)  # image row col hidden
        maps, on_map = (part.index_select(0, batch.image_of_text) for part in (maps, on_map))
        movie = self.movie(maps, on_map, modulator)
        auxiliary_logits = (self.mcan_head(question, mcan), self.movie_head(movie))
        return Outputs(self.head(question, mcan, movie), weights[:, 0], auxiliary_logits)
