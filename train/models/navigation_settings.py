"""The settings of the agents that navigate, and of the speaker; importable without torch."""

import dataclasses
from typing import Literal

from ..settings import require_at_least, require_choice, require_range, require_share
from .settings import require_even, require_heads, require_layers, require_sizes

EXPERTS = ("distance", "ndtw")
ANGLES = 4  # numbers that say a direction: sine and cosine of heading and elevation


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvDropSettings:
    """EnvDrop's follower (Tan et al. 2019), in the sizes of CLIP-ViL's runs."""

    name: Literal["envdrop"] = "envdrop"
    word: int = 256  # channels of a word
    hidden: int = 512  # channels of the state; the encoder has half of it in each direction
    action: int = 64  # channels of the direction that the agent looks in
    angle_repeats: int = 32  # how often the four numbers of an angle are repeated
    features: int = 0  # channels that features are projected to; 0 reads them as they are
    dropout: float = 0.5
    feature_dropout: float = 0.3  # of the numbers of views, never of angles
    pool_padding: bool = False  # as published: padding takes part in the maximum over words

    def __post_init__(self) -> None:
        require_sizes(self, "word", "hidden", "action", "angle_repeats")
        require_at_least(self, 0, "features")
        require_share(self, "dropout", "feature_dropout")
        require_even(self.hidden, "two directions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapSettings:
    """An agent with a map of what it has seen, after DUET (Chen et al. 2022), in a narrow size."""

    name: Literal["map"] = "map"
    hidden: int = 256  # channels of words, views and nodes
    heads: int = 8
    text_layers: int = 4  # of the start's encoder (--init), its first ones
    text_hidden: int = 0  # channels of a start's encoder, which sets them; 0 without a start
    text_heads: int = 0  # of a start's encoder, likewise
    panorama_layers: int = 2
    cross_layers: int = 4  # of the map's encoder, and as many of the view's
    dropout: float = 0.1
    feature_dropout: float = 0.4  # of the numbers of views, never of angles
    # Of sampled walks: the node on the shortest way to the goal, or the one to which the walk follows the
    # reference best, "ndtw".
    expert: str = "distance"

    def __post_init__(self) -> None:
        require_sizes(self, "hidden", "heads")
        require_layers(self, "text_layers", "panorama_layers", "cross_layers")
        require_heads(self.hidden, self.heads)
        require_at_least(self, 0, "text_hidden", "text_heads")
        if self.text_hidden or self.text_heads:
            require_sizes(self, "text_hidden", "text_heads")
            require_heads(self.text_hidden, self.text_heads)
        require_share(self, "dropout", "feature_dropout")
        require_choice(self, "expert", EXPERTS)
        require_even(self.hidden, "sines and cosines")


AgentSettings = EnvDropSettings | MapSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerSettings:
    """EnvDrop's speaker: its sizes, and what its training has in place of the follower's numbers."""

    name: str = "speaker"
    word: int = 256  # channels of a word
    hidden: int = 512  # channels of the state; the encoders have half of it in each direction
    angle_repeats: int = 32
    dropout: float = 0.6
    feature_dropout: float = 0.3
    max_words: int = 120  # of a written instruction
    updates: int = 80_000
    batch_size: int = 64  # instructions an update, of all processes together
    lr: float = 1e-4  # of Adam

    def __post_init__(self) -> None:
        require_sizes(self, "word", "hidden", "angle_repeats")
        require_at_least(self, 1, "max_words", "updates", "batch_size")
        require_range(self, "more than 0", lambda x: x > 0, "lr")
        require_share(self, "dropout", "feature_dropout")
        require_even(self.hidden, "two directions")
