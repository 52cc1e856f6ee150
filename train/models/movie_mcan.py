"""MoVie+MCAN: convolutions over the grid, modulated by the question, beside MCAN's attention."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..normalize import FeatureNorm
from .layers import (
    AnswerBatch,
    Outputs,
    Reduction,
    SumHead,
    WordStates,
)
from .mcan import GuidedAttention, SelfAttention
from .positions import GridPosition, add_positions
from .settings import MovieMcanSettings

POSITIONS = 32 * 32  # of a map in mmf, over which it takes the mean


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


class SqueezeExcitation(nn.Module):
    """Scales a map's channels, then its positions, by gates of 0 to 1.

    The gate of a channel depends on the means of all channels over the map (Hu et al. 2018,
    Squeeze-and-Excitation, section 3); that of a position on the mean over channels there and
    around it, in a window of 7x7. Both are as in mmf, without biases.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4, bias=False)
        self.excite = nn.Linear(channels // 4, channels, bias=False)
        self.around = nn.Conv2d(1, 1, kernel_size=7, padding=3, bias=False)

    def forward(
        self, maps: Float[Tensor, "text row col channel"], real: Bool[Tensor, "text row col"]
    ) -> Float[Tensor, "text row col channel"]:
        """Return the scaled maps, which are zero where `real` is false, as `maps` must be."""
        # float32: under autocast a sum over a large grid would lose its last cells
        means = maps.float().sum(dim=(1, 2)) / real.sum(dim=(1, 2))[:, None]  # text channel
        maps = maps * self.excite(self.squeeze(means).relu()).sigmoid()[:, None, None]
        strength = maps.mean(dim=-1)[:, None]  # text 1 row col
        return maps * self.around(strength).sigmoid().permute(0, 2, 3, 1)


class ModulatedBottleneck(nn.Module):
    """A bottleneck of Nguyen et al. 2020 (MoVie), section 3, as in mmf.

    To the 1x1 convolution of its input x it adds another one, of x with channels scaled by the
    question. mmf's BatchNorm is frozen as it begins, and thus has no effect; there is no norm here.
    Its padding is not masked, here it stays zero.
    """

    def __init__(self, inputs: int, channels: int, *, question: int) -> None:
        super().__init__()
        inner = channels // 4
        self.delta = nn.Linear(question, inputs)
        self.narrow = nn.Linear(inputs, inner, bias=False)  # a 1x1 convolution
        self.narrow_modulated = nn.Linear(inputs, inner)
        self.around = nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.widen = nn.Linear(inner, channels, bias=False)
        self.gate = SqueezeExcitation(channels)
        is_residual = inputs == channels
        self.shortcut = nn.Identity() if is_residual else nn.Linear(inputs, channels, bias=False)

    def forward(
        self,
        maps: Float[Tensor, "text row col input"],
        real: Bool[Tensor, "text row col"],
        question: Float[Tensor, "text question"],
    ) -> Float[Tensor, "text row col channel"]:
        """Return the maps after one block; zero where `real` is false, as the inputs must be."""
        padding = ~real[..., None]
        delta = self.delta(question)[:, None, None]
        inner = (self.narrow(maps) + self.narrow_modulated(maps * delta)).relu()
        # The bias fills padding, and the convolution would spread it to real neighbours.
        inner = inner.masked_fill(padding, 0.0).permute(0, 3, 1, 2)  # text inner row col
        inner = self.around(inner).permute(0, 2, 3, 1).relu()
        change = self.gate(self.widen(inner).masked_fill(padding, 0.0), real)
        return (self.shortcut(maps) + change).relu()


class Movie(nn.Module):
    """Modulated bottlenecks, then a normalised sum over real positions, in which amounts show.

    mmf takes the mean over a map of 32x32 positions, whatever the size of the grid, and then a
    LayerNorm. A LayerNorm cancels the length of a vector: two things and four things differ there in
    direction only because padding has values, too. Here padding has none, and the learned vector
    `empty`, what an empty map would have, is added to the sum.
    """

    def __init__(self, inputs: int, channels: int, *, layers: int, question: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ModulatedBottleneck(channels if block else inputs, channels, question=question)
            for block in range(layers)
        )
        self.empty = nn.Parameter(torch.zeros(channels))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        maps: Float[Tensor, "text row col input"],
        real: Bool[Tensor, "text row col"],
        question: Float[Tensor, "text question"],
    ) -> Float[Tensor, "text channel"]:
        """Return one vector per text; `maps` must be zero where `real` is false."""
        for block in self.blocks:
            maps = block(maps, real, question)
        # float32: under autocast a sum over a large grid would lose its last cells
        return self.norm(self.empty + maps.float().sum(dim=(1, 2)) / POSITIONS)


class MovieMcan(nn.Module):
    """The three-branch model of Nguyen et al. 2020 (MoVie), section 3.3, after mmf's `movie_mcan`.

    Words are reduced to two vectors: one modulates MoVie, one is the question in the heads. As in
    mmf, one head fuses question, MCAN and MoVie, and two auxiliary heads see MCAN with the question
    and MoVie alone. Differences from mmf, in which CLIP-ViL trained it: features can be normalised
    first, and a LayerNorm follows their projection for MCAN; padding cells are masked in both
    branches, where mmf attends to the padding of its 32x32 maps and averages over it (`Movie`);
    biases that softmax cancels are left out. With `positions` a cell's position is added to its
    features.
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
        self.position = GridPosition(dim) if settings.positions else None

        self.appearance = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden))
        self.decoder = nn.ModuleList(
            GuidedAttention(hidden, heads=heads, dropout=dropout) for _ in range(settings.layers)
        )
        self.reduce_cells = Reduction(hidden, inner=hidden // 2, glimpses=1, dropout=dropout)

        self.movie = Movie(dim, hidden, layers=settings.movie_layers, question=hidden)

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

        features = self.norm(batch.features, batch.mask)  # image cell dim
        features = add_positions(features, self.position, batch.grid_shapes, batch.boxes)
        # index_select, not indexing: its gradient adds up in a fixed order on the CPU.
        cells = self.appearance(features).index_select(0, batch.image_of_text)  # text cell hidden
        seen = batch.mask.index_select(0, batch.image_of_text)
        for layer in self.decoder:
            cells = layer(cells, seen, words, real)
        glimpse, weights = self.reduce_cells(cells, seen)
        mcan = glimpse[:, 0]

        maps, on_map = cell_maps(features, batch.mask, batch.grid_shapes)  # image row col dim
        maps, on_map = (part.index_select(0, batch.image_of_text) for part in (maps, on_map))
        movie = self.movie(maps, on_map, modulator)
        auxiliary_logits = (self.mcan_head(question, mcan), self.movie_head(movie))
        return Outputs(self.head(question, mcan, movie), weights[:, 0], auxiliary_logits)
