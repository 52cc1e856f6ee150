"""What a VQA run obeys."""

import dataclasses
from pathlib import Path

from ..models.settings import ModelSettings, UpDnSettings
from ..settings import LoopSettings, require_at_least, require_choice
from .datasets.read import DATASETS

PRESETS = Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqaSettings(LoopSettings):
    """Settings of one VQA run; `configs/default.toml` lists them with their reasons."""

    dataset: str = "vqa2"  # or "gqa"
    train_split: str = "train"  # or several, such as "train+val+vg"
    eval_split: str = "val"
    skip_missing: int = 0  # most questions of a split that may lack their image's features
    min_answer_count: int = 9  # training questions that an answer needs to become a class
    answer_list: str = ""  # a file of the answers that are the classes; "" counts
    max_tokens: int = 20  # words of a question that are read
    blind: bool = False  # features as zeros: what the questions alone give away
    model: ModelSettings = dataclasses.field(default_factory=UpDnSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "min_answer_count", "max_tokens")
        require_at_least(self, 0, "skip_missing")
        require_choice(self, "dataset", DATASETS)
