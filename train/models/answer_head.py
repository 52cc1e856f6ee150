"""The head of the single-stream encoder that chooses an answer."""

from torch import nn

EPSILON = 1e-12  # of BERT's layer norms


class AnswerHead(nn.Sequential):
    """Logits of answers from the first piece's state, as LXMERT and CLIP-ViL_p have them."""

    def __init__(self, channels: int, answers: int) -> None:
        super().__init__(
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.LayerNorm(2 * channels, eps=EPSILON),
            nn.Linear(2 * channels, answers),
        )
