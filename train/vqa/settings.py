"""What a VQA run obeys."""

import dataclasses
from pathlib import Path

from ...base.errors import UsageError
from ..settings import LoopSettings, require_at_least, require_choice

MODELS = ("updn",)
PRESETS = Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqaSettings(LoopSettings):
    """Settings of one VQA run; `configs/default.toml` lists them with their reasons."""

    train_split: str = "train"
    eval_split: str = "val"
    min_answer_count: int = 9  # training questions that an answer needs to become a class
    max_tokens: int = 20  # words of a question that are read
    model: str = "updn"
    blind: bool = False  # features as zeros: what the questions alone give away
    embedding: int = 128  # channels of a word
    hidden: int = 384  # channels of a question, a cell and their fusion
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "min_answer_count", "max_tokens", "embedding", "hidden")
        require_choice(self, "model", MODELS)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1; got {self.dropout}")
