"""What every task obeys that chooses an answer to a text about an image."""

import dataclasses

from ...base.errors import UsageError
from ..models.settings import MOST_TOKENS, ModelSettings, SingleStreamSettings, UpDnSettings
from ..settings import LoopSettings, require_at_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundedSettings(LoopSettings):
    """What every task obeys that chooses an answer to a text about an image."""

    train_split: str = "train"
    eval_split: str = "val"  # scores the model after each epoch; "" trains without one
    skip_missing: int = 0  # most texts of a split that may lack their image's features
    max_tokens: int = 20  # words of a text that are read
    blind: bool = False  # features as zeros: what the texts alone give away
    init: str = ""  # a pre-training run to start from, which then says what the model is
    model: ModelSettings = dataclasses.field(default_factory=UpDnSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_pieces = isinstance(self.model, SingleStreamSettings)  # [CLS], a piece, [SEP]
        require_at_least(self, 3 if of_pieces else 1, "max_tokens")
        if self.max_tokens > MOST_TOKENS:
            raise UsageError(f"max_tokens must be at most {MOST_TOKENS}; got {self.max_tokens}")
        require_at_least(self, 0, "skip_missing")
