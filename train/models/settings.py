"""The settings of each model; importable without torch, so that mistakes are reported at once."""

import dataclasses
from typing import Literal

from ...base.errors import UsageError
from ..settings import (
    SplitSettings,
    require_at_least,
    require_at_most,
    require_local_paths,
    require_share,
)

MAX_LAYERS = 1000  # more than any model has; to make one takes time, whatever its width
MAX_SIZE = 1 << 24  # of a dimension of a tensor; a square matrix of this size does not overflow
MAX_TOKENS = 512  # words of a text; every text of a split takes memory for so many


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How a model reads whole words."""

    embedding: int = 300  # channels of a word
    glove: str = ""  # a file of GloVe vectors with so many channels; "" learns the words' vectors

    # The vectors that the published runs of the model started from, and their channels; "" where
    # there is no published run. Not a setting.
    PUBLISHED_GLOVE = ""
    PUBLISHED_EMBEDDING = 300

    def __post_init__(self) -> None:
        require_sizes(self, "embedding")
        require_local_paths(self, "glove")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpDnSettings(TextSettings):
    """Bottom-up and top-down attention, in a small size; the default model."""

    name: Literal["updn"] = "updn"
    embedding: int = 128
    hidden: int = 384  # channels of a question, of a cell and of their fusion
    positions: bool = True  # whether cells carry their position in the grid, or regions their box
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden")
        require_share(self, "dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpDnLargeSettings(TextSettings):
    """Bottom-up and top-down attention in the form and the sizes that published baselines have."""

    name: Literal["updn_large"] = "updn_large"
    hidden: int = 1024  # channels of the GRU over words, and of the products
    positions: bool = False
    attention_dropout: float = 0.2  # before the attention's score
    dropout: float = 0.5  # in the classifier

    PUBLISHED_GLOVE = "glove.6B.300d.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden")
        require_share(self, "attention_dropout", "dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythiaSettings(TextSettings):
    """Pythia v0.1; its sizes are those of CLIP-ViL's VQA experiments."""

    name: Literal["pythia"] = "pythia"
    hidden: int = 1024  # channels of the LSTM over words
    joint: int = 5000  # channels of the products of question and image
    text_head: int = 300  # channels of the head that sees the question's side
    image_head: int = 5000  # channels of the head that sees the image's side
    positions: bool = False
    dropout: float = 0.0  # the published runs had none

    PUBLISHED_GLOVE = "glove.6B.300d.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 2, "hidden")  # half of it weighs the words
        require_sizes(self, "hidden", "joint", "text_head", "image_head")
        require_share(self, "dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class McanSettings(TextSettings):
    """MCAN, in the sizes of MCAN-small; MCAN-large has hidden 1024 and joint 2048."""

    name: Literal["mcan"] = "mcan"
    hidden: int = 512  # channels of words and cells; a feed-forward layer has four times as many
    layers: int = 6  # of self-attention over words, and as many of guided attention over cells
    heads: int = 8
    reduction: int = 512  # channels in which words and cells are weighed before their sums
    joint: int = 1024  # channels of the fused question and image
    positions: bool = False
    dropout: float = 0.1

    PUBLISHED_GLOVE = "glove.840B.300d.txt"  # in spaCy's en_vectors_web_lg

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden", "heads", "reduction", "joint")
        require_layers(self, "layers")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieMcanSettings(TextSettings):
    """MoVie and MCAN with three heads; CLIP-ViL's table calls this model MCAN."""

    name: Literal["movie_mcan"] = "movie_mcan"
    hidden: int = 1024  # channels of words, of cells, and of MoVie's maps
    layers: int = 6  # as in mcan
    heads: int = 8
    movie_layers: int = 4  # modulated bottlenecks over the grid
    joint: int = 2048  # channels of each head
    positions: bool = False
    dropout: float = 0.1

    PUBLISHED_GLOVE = "glove.6B.300d.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 4, "hidden")  # a bottleneck has a quarter of it
        require_sizes(self, "hidden", "heads", "joint")
        require_layers(self, "layers", "movie_layers")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentiveProbeSettings(TextSettings):
    """A few learned queries over the grid, conditioned on the text; in the sizes of `updn`."""

    name: Literal["attentive_probe"] = "attentive_probe"
    embedding: int = 128
    queries: int = 4
    hidden: int = 384  # channels of the text, of a query and of a cell
    heads: int = 8
    positions: bool = True  # whether cells carry their position in the grid, or regions their box
    dropout: float = 0.1  # of attention weights, and in the perceptron

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "queries", "hidden", "heads")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeSettings(TextSettings):
    """A linear layer over the mean cell and the mean word vector."""

    name: Literal["linear_probe"] = "linear_probe"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleStreamSettings:
    """Words and cells in one BERT encoder, in the size of BERT-base."""

    name: Literal["single_stream"] = "single_stream"
    hidden: int = (
        768  # channels of word pieces and cells; four times as many in a feed-forward layer
    )
    layers: int = 12
    heads: int = 12
    max_grid_side: int = 25  # largest number of rows, and of columns, of a grid
    vocab_size: int = 30_522  # most word pieces; a BERT brings its own
    bert: str = ""  # a BERT to start from: a folder, or a name on Hugging Face's hub
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_sizes(self, "hidden", "heads", "max_grid_side", "vocab_size")
        require_layers(self, "layers")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)


ModelSettings = (
    UpDnSettings
    | UpDnLargeSettings
    | PythiaSettings
    | McanSettings
    | MovieMcanSettings
    | AttentiveProbeSettings
    | LinearProbeSettings
    | SingleStreamSettings
)


def require_sizes(settings: object, *names: str) -> None:
    """Raise UsageError unless the named settings can be sizes of tensors."""
    require_at_least(settings, 1, *names)
    require_at_most(settings, MAX_SIZE, *names)


def require_layers(settings: object, *names: str) -> None:
    """Raise UsageError unless the named settings can be numbers of layers."""
    require_at_least(settings, 1, *names)
    require_at_most(settings, MAX_LAYERS, *names)


def require_heads(channels: int, heads: int) -> None:
    """Raise UsageError unless `heads` divides `channels`."""
    if channels % heads:
        raise UsageError(
            f"hidden must be a multiple of heads, {heads}; got {channels}", code="E-SETTINGS-HEADS"
        )


def require_even(hidden: int, reason: str) -> None:
    """Raise UsageError unless the channels can be halved."""
    if hidden % 2:
        raise UsageError(
            f"hidden must be even, for {reason}; got {hidden}", code="E-SETTINGS-HIDDEN"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTaskSettings(SplitSettings):
    """The settings of every task whose model reads texts about images."""

    max_tokens: int = 20  # words of a text that are read
    init: str = ""  # a run to start from, which then determines the model
    model: ModelSettings = dataclasses.field(default_factory=UpDnSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_pieces = isinstance(self.model, SingleStreamSettings)  # [CLS], a piece, [SEP]
        require_at_least(self, 3 if of_pieces else 1, "max_tokens")
        require_at_most(self, MAX_TOKENS, "max_tokens")
        require_local_paths(self, "init")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnsweringSettings(TextTaskSettings):
    """The settings of every task that chooses an answer to a text about an image."""

    # Weight in the loss of naming hidden words of training texts that are true of their images; 0
    # hides none.
    word_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "word_weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellSettings:
    """How a captioner reads the cells of a grid."""

    positions: bool = False  # whether cells carry their position in the grid, or regions their box
    cell_dropout: float = 0.5  # of projected cells

    def __post_init__(self) -> None:
        require_share(self, "cell_dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerCaptionerSettings(CellSettings):
    """A transformer, in the sizes of CLIP-ViL's captioning experiments."""

    name: Literal["transformer"] = "transformer"
    hidden: int = 512  # channels of words and cells; a feed-forward layer has four times as many
    layers: int = 6  # over cells, and as many over words
    heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden", "heads")
        require_layers(self, "layers")
        require_share(self, "dropout")
        require_heads(self.hidden, self.heads)
        require_even(self.hidden, "sines and cosines")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpDnCaptionerSettings(CellSettings):
    """Bottom-up and top-down attention, in the sizes of Anderson et al. 2018."""

    name: Literal["updn"] = "updn"
    embedding: int = 1000  # channels of a word
    hidden: int = 1000  # channels of both LSTMs, and of a cell
    attention: int = 512  # channels in which cells are weighed
    dropout: float = 0.5  # of words, and of the state from which a word is chosen

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "embedding", "hidden", "attention")
        require_share(self, "dropout")


CaptionerSettings = TransformerCaptionerSettings | UpDnCaptionerSettings
