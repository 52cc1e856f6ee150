"""Words as vectors, learned or started from GloVe."""

from jaxtyping import Float32, Int
from torch import Tensor, nn

from ..texts.words import PADDING, SPECIAL


class Words(nn.Embedding):
    """Vectors of tokens; the padding token's is zero and stays so."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__(tokens, channels, padding_idx=PADDING)

    def fill(self, rows: Int[Tensor, " word"], vectors: Float32[Tensor, "word channel"]) -> None:
        """Start the vectors of the words numbered `rows` (0 is the first) from given ones."""
        self.weight.data[rows + SPECIAL] = vectors
