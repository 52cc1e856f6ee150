"""What a visual entailment run obeys."""

import dataclasses
from pathlib import Path

from ..grounded.settings import GroundedSettings
from ..settings import require_choice
from .data import DATASETS

PRESETS = Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeSettings(GroundedSettings):
    """Settings of one run; `configs/default.toml` lists them with their reasons."""

    dataset: str = "snli_ve"  # or "esnlive"
    eval_split: str = "dev"
    max_tokens: int = 32  # words of a hypothesis that are read

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "dataset", tuple(DATASETS))
