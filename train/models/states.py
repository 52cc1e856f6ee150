"""A text as one state a word."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..texts.words import PADDING
from .words import Words


class WordStates(nn.Module):
    """The states of an LSTM at every word of a text."""

    def __init__(self, *, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.words = Words(tokens, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)

    def forward(
        self, tokens: Int[Tensor, "text token"]
    ) -> tuple[Float[Tensor, "text token hidden"], Bool[Tensor, "text token"]]:
        """Return the states, and which are of real words.

        It reads forwards only, so that padding after the last word changes no real state.
        """
        # oneDNN has a bfloat16 LSTM only where the processor has AVX-512 or AMX for it. On any CPU
        # an LSTM is float32, so that a run does not depend on which; GPUs are not concerned.
        with torch.autocast("cpu", enabled=False):
            states, _ = self.lstm(self.words(tokens))
        return states, tokens != PADDING
