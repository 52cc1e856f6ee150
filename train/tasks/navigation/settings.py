"""The settings of a navigation run; without torch, so that mistakes are reported at once."""

import dataclasses

from ....base.errors import UsageError
from ...models.navigation_settings import (
    AgentSettings,
    EnvDropSettings,
    MapSettings,
    SpeakerSettings,
)
from ...settings import (
    SplitSettings,
    require_at_least,
    require_at_most,
    require_choice,
    require_local_paths,
    require_range,
    require_share,
)
from ..settings import PRESETS

NAV_PRESETS = PRESETS / "nav"
FOLLOWER, SPEAKER, BACK_TRANSLATION = STAGES = ("follower", "speaker", "backtranslation")
WALKERS = (FOLLOWER, BACK_TRANSLATION)  # the stages whose model follows instructions
METRICS = ("sr", "spl", "ndtw", "sdtw", "cls")
TEACHERS = ("shortest", "reference")
REWARDS = ("distance", "ndtw")
MAX_TOKENS = 512  # of an instruction; every instruction takes memory for so many
MAX_ACTIONS = 1000
MAX_PATHS = 10_000_000  # to describe; a million take 350 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackTranslationSettings:
    """The last stage: the follower learns from instructions that the speaker writes, too."""

    name: str = "back_translation"
    augmented: str = ""  # a file of paths, of R2R's format; "" samples paths from training graphs
    paths: int = 200_000  # most paths that are sampled from the graphs
    env_dropout: float = 0.4  # share of the features' channels that a whole environment lacks
    teacher_weight: float = 0.6  # of teacher forcing, on written instructions
    updates: int = 100_000
    lr: float = 1e-4

    def __post_init__(self) -> None:
        require_share(self, "env_dropout")
        require_at_least(self, 0, "teacher_weight")
        require_at_least(self, 1, "updates", "paths")
        require_at_most(self, MAX_PATHS, "paths")
        require_range(self, "more than 0", lambda x: x > 0, "lr")
        require_local_paths(self, "augmented")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NavigationSettings(SplitSettings):
    """Settings of all stages; `presets/nav/r2r.toml` lists them with their reasons.

    Splits may be several, such as "val_seen+val_unseen". A batch holds the instructions of both
    halves: those that follow the teacher, and those that are followed by chance.
    """

    graphs: str = ""  # folder of the connectivity files; "": the folder connectivity in --data
    eval_split: str = "val_seen+val_unseen"
    select_split: str = "val_seen"  # one of them: its score chooses the checkpoint
    metric: str = "sr"  # the score
    languages: str = ""  # of RxR, such as "en" or "hi-IN+te-IN"; "" reads all
    pieces: str = ""  # a BERT's vocab.txt, whose word pieces are read in place of words
    init: str = ""  # a run of pre-training, whose text encoder and pieces model map starts from
    min_count: int = 5  # times that training instructions need to hold a word of the vocabulary
    max_tokens: int = 80  # of an instruction, with begin and end
    max_actions: int = 35  # after which a walk ends
    teacher: str = "shortest"  # path of teacher forcing, to the goal; or the "reference"
    teacher_weight: float = 0.2  # of teacher forcing, beside the sampled walks
    reward: str = "distance"  # of sampled walks; or "ndtw"
    discount: float = 0.9  # of rewards, an action
    entropy: float = 0.01  # weight of the entropy of the policy
    updates: int = 80_000
    batch_size: int = 128  # instructions an update, of both halves and all processes
    optimizer: str = "rmsprop"
    lr: float = 1e-4
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    clip_norm: float = 40.0
    eval_every: int = 1000
    norm: str = "none"
    model: AgentSettings = dataclasses.field(default_factory=EnvDropSettings)
    speaker: SpeakerSettings = dataclasses.field(default_factory=SpeakerSettings)
    back_translation: BackTranslationSettings = dataclasses.field(
        default_factory=BackTranslationSettings
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "min_count", "max_actions")
        require_at_least(self, 3, "max_tokens")  # begin, a word, end
        require_at_most(self, MAX_TOKENS, "max_tokens")
        require_at_most(self, MAX_ACTIONS, "max_actions")
        require_at_least(self, 0, "teacher_weight", "entropy")
        require_range(self, "a share from 0 to 1", lambda x: 0 <= x <= 1, "discount")
        require_choice(self, "metric", METRICS)
        require_choice(self, "teacher", TEACHERS)
        require_choice(self, "reward", REWARDS)
        require_local_paths(self, "graphs", "pieces", "init")
        _require_start(self)
        if self.eval_split and not self.eval_splits:
            raise UsageError(
                f"eval_split {self.eval_split!r} names no split; join names by +, or pass "
                '--set eval_split="" to train without one',
                code="E-SETTINGS-CHOICE",
            )
        if self.eval_split and self.select_split not in self.eval_splits:
            raise UsageError(
                f"select_split {self.select_split!r} is not a split of eval_split "
                f"{self.eval_split!r}; pass --set select_split={self.eval_splits[0]}",
                code="E-SETTINGS-CHOICE",
            )

    @property
    def reads_pieces(self) -> bool:
        """Whether agents read word pieces; a speaker cannot write them."""
        return bool(self.pieces or self.init)

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """The names of the splits that are scored."""
        return split_names(self.eval_split)

    @property
    def speaking(self) -> "NavigationSettings":
        """The settings of the speaker's loop; AdamW without decay is Adam."""
        return dataclasses.replace(
            self,
            updates=self.speaker.updates,
            batch_size=self.speaker.batch_size,
            lr=self.speaker.lr,
            optimizer="adamw",
        )

    @property
    def back_translating(self) -> "NavigationSettings":
        """The settings of the last stage's loop."""
        return dataclasses.replace(
            self, updates=self.back_translation.updates, lr=self.back_translation.lr
        )


def _require_start(settings: NavigationSettings) -> None:
    """Raise UsageError where a text encoder of pre-training is named that cannot be used."""
    model = settings.model
    if settings.init and not isinstance(model, MapSettings):
        raise UsageError(
            f"init {settings.init} has a text encoder for model map, and the model is "
            f"{model.name}; pass --set model=map, or leave init out",
            code="E-INIT-MODEL",
        )
    if settings.init and settings.pieces:
        raise UsageError(
            f"pieces {settings.pieces} and init {settings.init} exclude each other: the run has its "
            "own word pieces; leave pieces out",
            code="E-SETTINGS-CHOICE",
        )
    if isinstance(model, MapSettings) and model.text_hidden and not settings.init:
        raise UsageError(
            "model.text_hidden and model.text_heads are those of a run to start from; pass --init "
            "RUN, or leave them out",
            code="E-INIT-MODEL",
        )


def read_stages(text: str) -> tuple[str, ...]:
    """Return the stages that a text names, joined by commas, in the order in which they are trained.

    Raises UsageError (E-NAV-STAGE) for a name that is none.
    """
    named = text.split(",")
    if unknown := [name for name in named if name not in STAGES]:
        raise UsageError(
            f"--stage takes {', '.join(STAGES)}, or several of them with commas between; got "
            f"{unknown[0]!r:.40}",
            code="E-NAV-STAGE",
        )
    return tuple(stage for stage in STAGES if stage in named)


def split_names(joined: str) -> tuple[str, ...]:
    """Return the names of splits, or languages, that are joined by +, each once.

    >>> split_names("val_seen+val_unseen")
    ('val_seen', 'val_unseen')
    """
    return tuple(dict.fromkeys(name for name in joined.split("+") if name))
