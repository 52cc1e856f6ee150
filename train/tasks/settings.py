"""The settings of each task; without torch, so that mistakes are reported at once."""

import dataclasses
from pathlib import Path

from ...base.errors import UsageError
from ..data.captions import CAPTION_DATASETS
from ..data.snli_ve import VE_DATASETS
from ..data.vqa_files import VQA_DATASETS
from ..models.settings import (
    AnsweringSettings,
    CaptionerSettings,
    SingleStreamSettings,
    TextTaskSettings,
    TransformerCaptionerSettings,
)
from ..settings import (
    SplitSettings,
    require_at_least,
    require_at_most,
    require_choice,
    require_local_paths,
    require_range,
    require_share,
)

PRESETS = Path(__file__).parent.parent / "presets"
VQA_PRESETS = PRESETS / "vqa"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqaSettings(AnsweringSettings):
    """Settings of one VQA run; `presets/vqa/default.toml` lists them with their reasons.

    All splits may be several, such as "train+val+vg".
    """

    dataset: str = "vqa2"  # and data sets that are scored like it; or "gqa"
    answer_split: str = ""  # whose answers are counted to choose the classes; "": train_split
    min_answer_count: int = 9  # questions of it that an answer needs to become a class
    answer_list: str = ""  # a file of the answers that are the classes; "" counts

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "min_answer_count")
        require_choice(self, "dataset", VQA_DATASETS)
        require_local_paths(self, "answer_list")


VE_PRESETS = PRESETS / "ve"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeSettings(AnsweringSettings):
    """Settings of one run; `presets/ve/default.toml` lists them with their reasons."""

    dataset: str = "snli_ve"  # or "esnlive"
    eval_split: str = "dev"
    max_tokens: int = 32  # words of a hypothesis that are read
    word_weight: float = 1.0  # without it, small data hardly teach entailment and contradiction

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "dataset", tuple(VE_DATASETS))


PRETRAIN_PRESETS = PRESETS / "pretrain"


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
        require_share(self, "mask_words", "mismatch", "mask_cells")
        if not any((self.words, self.matching, self.answers, self.cells)):
            raise UsageError(
                "objectives: at least one of words, matching, answers and cells must be above 0",
                code="E-SETTINGS-OBJECTIVES",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(TextTaskSettings):
    """Settings of one pre-training run; `presets/pretrain/stage1.toml` lists them with their reasons."""

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
        require_local_paths(self, "answer_list")


CAPTION_PRESETS = PRESETS / "caption"
XE, SCST = STAGES = ("xe", "scst")  # cross-entropy, then self-critical sequence training
BASELINES = ("greedy", "mean")
LONGEST = 512  # words of a caption, written or read


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How captions are written, after each epoch and in the end."""

    name: str = "decoding"
    beams: int = 1  # captions of an image that are kept while they are written
    alpha: float = 0.0  # captions are ranked by log-probability over length^alpha
    groups: int = 1  # of beams, for diverse beam search; they divide the beams equally
    diversity: float = 0.5  # of groups: cost of a word for each beam of an earlier one that has it
    nucleus: float = 0.0  # if not 0, words are drawn, from the likeliest of this total probability
    temperature: float = 1.0  # of drawing; below 1, likely words are preferred more
    max_tokens: int = 20  # of a written caption, its end among them
    no_repeat: int = 0  # where n > 0, no n words follow each other twice

    def __post_init__(self) -> None:
        require_at_least(self, 1, "beams", "groups", "max_tokens")
        require_at_least(self, 0, "alpha", "diversity", "no_repeat")
        require_at_most(self, LONGEST, "beams", "max_tokens")
        require_range(self, "a share from 0 to 1", lambda x: 0 <= x <= 1, "nucleus")
        require_range(self, "more than 0", lambda x: x > 0, "temperature")
        if self.beams % self.groups:
            raise UsageError(
                f"groups must divide {self.beams} beams; got {self.groups}",
                code="E-DECODING-RANGE",
            )
        if self.nucleus and self.beams > 1:
            raise UsageError(
                f"nucleus {self.nucleus} draws captions without beams, and beams is {self.beams}; "
                "set beams to 1, or nucleus to 0",
                code="E-DECODING-RANGE",
            )


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
    dropout: bool = False  # samples are drawn, and learned from, in training mode

    def __post_init__(self) -> None:
        require_at_least(self, 1, "epochs", "batch_size", "samples")
        require_at_least(self, 0, "updates")
        require_choice(self, "baseline", BASELINES)
        require_at_most(self, LONGEST, "samples")
        if self.baseline == "mean" and self.samples < 2:
            raise UsageError(
                "baseline mean is the mean of the other samples of an image: samples must be at "
                f"least 2; got {self.samples}",
                code="E-SETTINGS-RANGE",
            )
        if self.lr <= 0:
            raise UsageError(f"scst.lr must be more than 0; got {self.lr}", code="E-SETTINGS-RANGE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionSettings(SplitSettings):
    """Settings of both stages; `presets/caption/default.toml` lists them with their reasons.

    Both splits may be several, such as "train+val".
    """

    dataset: str = "karpathy_coco"  # or "karpathy_flickr30k", "coco"
    min_count: int = 6  # times that training captions need to hold a word of the vocabulary
    bpe: int = 0  # where not 0, the vocabulary is so many tokens, parts of words
    max_tokens: int = 16  # words of a training caption that are read
    label_smoothing: float = 0.0
    init: str = ""  # a captioning run to start from, which determines the model
    batch_size: int = 50  # captions an update, of all processes together
    lr: float = 3e-4
    weight_decay: float = 0.0
    clip_norm: float = 0.1
    model: CaptionerSettings = dataclasses.field(default_factory=TransformerCaptionerSettings)
    decoding: DecodingSettings = dataclasses.field(default_factory=DecodingSettings)
    scst: SelfCriticalSettings = dataclasses.field(default_factory=SelfCriticalSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "dataset", CAPTION_DATASETS)
        require_at_least(self, 1, "min_count", "max_tokens")
        require_at_least(self, 0, "bpe")
        require_at_most(self, LONGEST, "max_tokens")
        require_share(self, "label_smoothing")
        require_local_paths(self, "init")

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
