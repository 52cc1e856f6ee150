"""What a pre-training run obeys."""

import dataclasses
from pathlib import Path

from ...base.errors import UsageError
from ..grounded.settings import GroundedSettings
from ..models.settings import SingleStreamSettings
from ..settings import require_at_least, require_share

PRESETS = Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What the encoder learns from: a weight in the loss for each objective, 0 leaves it out."""

    name: str = "objectives"
    words: float = 1.0  # masked language modelling
    matching: float = 1.0  # whether the text is about the image
    answers: float = 0.0  # question answering
    cells: float = 0.0  # masked-grid modelling, which CLIP-ViL does not have
    mask_words: float = 0.15  # share of word pieces that are masked
    mismatch: float = 0.5  # share of texts that are replaced by one about another image
    mask_cells: float = 0.15  # share of cells that are hidden, where `cells` counts

    def __post_init__(self) -> None:
        require_at_least(self, 0, "words", "matching", "answers", "cells")
        for name in ("mask_words", "mismatch", "mask_cells"):
            require_share(self, name)
        if not any((self.words, self.matching, self.answers, self.cells)):
            raise UsageError("objectives: at least one of words, matching, answers, cells counts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(GroundedSettings):
    """Settings of one pre-training run; `configs/stage1.toml` lists them with their reasons."""

    train_split: str = "mscoco_train+mscoco_nominival+vgnococo"
    eval_split: str = "mscoco_minival"
    model: SingleStreamSettings = dataclasses.field(default_factory=SingleStreamSettings)
    objectives: ObjectiveSettings = dataclasses.field(default_factory=ObjectiveSettings)
    sampled_cells: int = 100  # of each image, in training; 0: all
    min_answer_count: int = 9  # questions that an answer needs to become a class
    answer_list: str = ""  # a file of the answers that are the classes; "" counts

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "sampled_cells")
        require_at_least(self, 1, "min_answer_count")
