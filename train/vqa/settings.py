"""What a VQA run obeys."""

import dataclasses
from pathlib import Path

from ..grounded.settings import GroundedSettings
from ..settings import require_at_least, require_choice
from .datasets.read import DATASETS

PRESETS = Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqaSettings(GroundedSettings):
    """Settings of one VQA run; `configs/default.toml` lists them with their reasons.

    Both splits may be several, such as "train+val+vg".
    """

    dataset: str = "vqa2"  # or "gqa"
    min_answer_count: int = 9  # training questions that an answer needs to become a class
    answer_list: str = ""  # a file of the answers that are the classes; "" counts

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "min_answer_count")
        require_choice(self, "dataset", DATASETS)
