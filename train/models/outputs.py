"""What every model here returns."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Outputs(NamedTuple):
    """Logits of each text, and where the model looked."""

    logits: Float[Tensor, "text answer"]
    attention: Float[Tensor, "text cell"]  # over the grid, sums to 1; zero in padding cells
    # Logits of further heads, which are trained beside and not asked at inference.
    branches: tuple[Float[Tensor, "text answer"], ...] = ()
