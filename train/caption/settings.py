"""What a captioning run obeys."""

import dataclasses
from pathlib import Path

from ...base.errors import UsageError
from ..settings import (
    SplitSettings,
    require_at_least,
    require_at_most,
    require_choice,
    require_share,
)
from .data.read import DATASETS
from .models.settings import CaptionerSettings, TransformerSettings

PRESETS = Path(__file__).parent / "configs"
XE, SCST = STAGES = ("xe", "scst")  # cross-entropy, then self-critical sequence training
BASELINES = ("greedy", "mean")
LONGEST = 512  # words of a caption, written or read


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How captions are written, after each epoch and in the end."""

    name: str = "decoding"
    beams: int = 1  # captions of an image that are kept while they are written
    alpha: float = 0.0  # captions are ranked by log-probability over length^alpha
    max_tokens: int = 20  # of a written caption, its end among them
    no_repeat: int = 0  # where n > 0, no n words follow each other twice

    def __post_init__(self) -> None:
        require_at_least(self, 1, "beams", "max_tokens")
        require_at_least(self, 0, "alpha", "no_repeat")
        require_at_most(self, LONGEST, "beams", "max_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfCriticalSettings:
    """The second stage (Rennie et al. 2017): what it has in place of the first one's numbers."""

    name: str = "scst"
    epochs: int = 25
    updates: int = 0  # where not 0, training ends after so many, whatever `epochs` says
    batch_size: int = 10  # images an update, of all processes together
    lr: float = 5e-6  # constant
    samples: int = 5  # captions of an image that are drawn
    baseline: str = "greedy"  # or "mean": what a sample's reward is compared with

    def __post_init__(self) -> None:
        require_at_least(self, 1, "epochs", "batch_size", "samples")
        require_at_least(self, 0, "updates")
        require_choice(self, "baseline", BASELINES)
        require_at_most(self, LONGEST, "samples")
        if self.baseline == "mean" and self.samples < 2:
            raise UsageError(
                "baseline mean is that of the other samples of an image; samples must be at "
                f"least 2; got {self.samples}"
            )
        if self.lr <= 0:
            raise UsageError(f"scst.lr must be more than 0; got {self.lr}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionSettings(SplitSettings):
    """Settings of both stages; `configs/default.toml` lists them with their reasons.

    Both splits may be several, such as "train+val".
    """

    dataset: str = "karpathy_coco"  # or "karpathy_flickr30k", "coco"
    min_count: int = 6  # times that training captions need to hold a word of the vocabulary
    bpe: int = 0  # where not 0, the vocabulary is so many tokens, parts of words
    max_tokens: int = 16  # words of a training caption that are read
    label_smoothing: float = 0.0
    batch_size: int = 50  # captions an update, of all processes together
    lr: float = 3e-4
    weight_decay: float = 0.0
    clip_norm: float = 0.1
    model: CaptionerSettings = dataclasses.field(default_factory=TransformerSettings)
    decoding: DecodingSettings = dataclasses.field(default_factory=DecodingSettings)
    scst: SelfCriticalSettings = dataclasses.field(default_factory=SelfCriticalSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "dataset", DATASETS)
        require_at_least(self, 1, "min_count", "max_tokens")
        require_at_least(self, 0, "bpe")
        require_at_most(self, LONGEST, "max_tokens")
        require_share(self, "label_smoothing")

    @property
    def self_critical(self) -> "CaptionSettings":
        """The settings of the second stage's loop."""
        return dataclasses.replace(
            self,
            epochs=self.scst.epochs,
            updates=self.scst.updates,
            batch_size=self.scst.batch_size,
            lr=self.scst.lr,
            schedule="constant",
            warmup=0.0,
            milestones=(),
        )
