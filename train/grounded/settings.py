"""What every task obeys that chooses an answer to a text about an image."""

import dataclasses

from ..models.settings import MOST_TOKENS, ModelSettings, SingleStreamSettings, UpDnSettings
from ..settings import SplitSettings, require_at_least, require_at_most


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundedSettings(SplitSettings):
    """What every task obeys that chooses an answer to a text about an image."""

    max_tokens: int = 20  # words of a text that are read
    init: str = ""  # a pre-training run to start from, which then says what the model is
    model: ModelSettings = dataclasses.field(default_factory=UpDnSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_pieces = isinstance(self.model, SingleStreamSettings)  # [CLS], a piece, [SEP]
        require_at_least(self, 3 if of_pieces else 1, "max_tokens")
        require_at_most(self, MOST_TOKENS, "max_tokens")
