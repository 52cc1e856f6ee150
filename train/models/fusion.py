"""Vectors of a text and its image to answers, by a sum."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SumHead(nn.Module):
    """Logits from the norm of a sum of projected vectors (Yu et al. 2019, MCAN, section 3.3)."""

    def __init__(self, channels: int, *, vectors: int, joint: int, answers: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(channels, joint) for _ in range(vectors))
        self.norm = nn.LayerNorm(joint)
        self.classifier = nn.Linear(joint, answers)

    def forward(self, *vectors: Float[Tensor, "text channel"]) -> Float[Tensor, "text answer"]:
        """Return each text's logits, from as many vectors as the head was made for."""
        projected = [project(v) for project, v in zip(self.project, vectors, strict=True)]
        return self.classifier(self.norm(torch.stack(projected).sum(dim=0)))
