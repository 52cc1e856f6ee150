"""Settings: a frozen dataclass for each task, read from TOML files and `key=value` texts."""

import copy
import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from ..base.errors import UsageError, reason_of
from ..base.files import local_path, read_text

AUTO = "auto"  # of precision: what the device is best at; of norm: what suits the features
PRECISIONS = (AUTO, "float32", "bfloat16", "float16")
OPTIMIZERS = ("adamw", "adamax", "rmsprop")
SCHEDULES = ("cosine", "linear", "step", "noam", "constant")
CACHES = ("none", "memory", "device")
NORMS = (AUTO, "whiten", "channel", "none")
CHOSEN = -1  # of window_shards: the number is not stated
# Settings that a run decides when it begins, with the values that leave them to it.
DECIDED_AT_START = {"window_shards": CHOSEN, "precision": AUTO, "norm": AUTO}
LARGEST = 1 << 63  # torch takes no larger seed, and a float no number of any length
MAX_TOML_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of the training loop; those of a task extend them with fields of their own."""

    seed: int = 0
    epochs: int = 15
    updates: int = 0  # where not 0, training ends after so many, whatever `epochs` says
    batch_size: int = 64  # examples an update, of all processes together
    bucket_by_grid_shape: bool = False  # batches of images with one grid shape: less padding
    max_texts_per_image: int = 0  # most adjacent texts about one image in a batch; 0: all
    # Shards whose examples are shuffled together, then those of the next ones; 0: all, -1: as many as
    # the cache allows if the store is behind a URL, else all. A run keeps what it began with.
    window_shards: int = CHOSEN
    # Parts that a batch is computed in; more parts take less memory.
    gradient_accumulation_steps: int = 1
    optimizer: str = "adamw"
    lr: float = 2e-3  # highest learning rate of the schedule
    betas: tuple[float, ...] = (0.9, 0.999)  # not of rmsprop
    eps: float = 1e-8
    weight_decay: float = 0.01  # of matrices and filters only
    layer_decay: float = 1.0  # of a BERT: rate of a layer as a share of that of the layer above
    schedule: str = "cosine"  # what the rate does after the warm-up
    warmup: float = 0.05  # share of all updates in which the rate rises to `lr`
    warmup_from: float = 0.0  # share of `lr` at which it begins to rise
    warmup_steps: int = 0  # where not 0, it rises in so many equal steps in place of a line
    milestones: tuple[float, ...] = ()  # of "step": shares of all updates at which it falls
    decay: float = 0.1  # of "step": what it is multiplied by there
    lr_end: float = 0.0  # of "cosine" and "linear": share of `lr` at which the run ends
    clip_norm: float = 1.0  # largest norm of the gradient; 0 leaves it as it is
    clip_value: float = 0.0  # largest absolute value of a number of the gradient; 0 likewise
    # Of the forward pass; weights stay float32. "auto": bfloat16 on a GPU that has it, else float32.
    # A run keeps what it began with.
    precision: str = AUTO
    ema: float = 0.0  # decay an update of the average of the weights, which is evaluated; 0: none
    cache: str = "none"  # "memory" or "device" keeps the records that were read there
    eval_every: int = 0  # updates between evaluations; 0: one at each epoch's end
    log_every: int = 10  # updates that share a line of metrics.jsonl
    checkpoint_every: int = 1000  # updates; one more is written at each epoch's end

    def __post_init__(self) -> None:
        require_at_least(self, 1, "epochs", "batch_size", "gradient_accumulation_steps")
        require_at_least(self, 1, "log_every", "checkpoint_every")
        require_at_least(
            self, 0, "max_texts_per_image", "seed", "updates", "weight_decay", "clip_norm"
        )
        require_at_least(self, 0, "clip_value", "warmup_steps", "eval_every")
        require_at_least(self, CHOSEN, "window_shards")
        require_choice(self, "precision", PRECISIONS)
        require_choice(self, "optimizer", OPTIMIZERS)
        require_choice(self, "schedule", SCHEDULES)
        require_choice(self, "cache", CACHES)
        require_range(
            self, "a share from 0 to 1", lambda x: 0 <= x <= 1, "warmup", "warmup_from", "lr_end"
        )
        require_range(self, "more than 0", lambda x: x > 0, "lr", "eps", "decay")
        require_range(self, "more than 0 and at most 1", lambda x: 0 < x <= 1, "layer_decay")
        require_share(self, "ema")
        require_range(
            self,
            "two numbers from 0 to below 1",
            lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "betas",
        )
        require_range(
            self,
            "shares of all updates, between 0 and 1",
            lambda shares: all(0 < share < 1 for share in shares),
            "milestones",
        )
        if self.clip_norm and self.clip_value:
            raise UsageError(
                "clip_norm and clip_value exclude each other; pass --set clip_norm=0 to clip by "
                f"value, or --set clip_value=0; got {self.clip_norm} and {self.clip_value}",
                code="E-SETTINGS-CLIP",
            )
        if bool(self.milestones) != (self.schedule == "step"):
            raise UsageError(
                f"schedule step requires milestones, and only it accepts them; got schedule "
                f"{self.schedule} and milestones {self.milestones}",
                code="E-SETTINGS-SCHEDULE",
            )
        if self.warmup_steps and not self.warmup_from:
            raise UsageError(
                f"warmup_steps {self.warmup_steps} requires warmup_from above 0: the first step has "
                "the rate warmup_from * lr; "
                f"pass --set warmup_from={1 / (self.warmup_steps + 1):.6f}",
                code="E-SETTINGS-SCHEDULE",
            )
        if self.schedule == "noam" and not self.warmup:
            raise UsageError(
                "schedule noam requires warmup above 0, since its decay follows from it",
                code="E-SETTINGS-SCHEDULE",
            )


class NormSettings(typing.TypedDict):
    """How features are normalised: settings that a run takes over from the run that it starts from."""

    norm: str
    components: int
    whitening: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSettings(LoopSettings):
    """The settings of every task that learns from one split and is scored on another."""

    train_split: str = "train"
    eval_split: str = "val"  # scores the model at each evaluation; "" trains without one
    skip_missing: int = 0  # most texts of a split whose image may have no features
    blind: bool = False  # features are zeros: the model has the texts alone
    # Of features: "channel" standardises each channel, "none" changes nothing. "auto": "whiten" where
    # the channels are strongly correlated, else "channel". A run keeps what it began with.
    norm: str = AUTO
    components: int = 128  # of "whiten": most directions that are kept, those of largest variance
    whitening: float = 0.5  # of "whiten": power of its std that each is divided by, 1 for all of it

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "skip_missing")
        require_choice(self, "norm", NORMS)
        require_at_least(self, 1, "components")
        require_range(self, "a power from 0 to 1", lambda x: 0 <= x <= 1, "whitening")

    def of_norm(self) -> NormSettings:
        """Return the settings of the norm."""
        return NormSettings(norm=self.norm, components=self.components, whitening=self.whitening)


def require_range(settings: object, rule: str, holds: Callable[[Any], bool], *names: str) -> None:
    """Raise UsageError where a named setting breaks a rule, such as "more than 0"."""
    for name in names:
        value = getattr(settings, name)
        if not holds(value):
            raise UsageError(f"{name} must be {rule}; got {value}", code="E-SETTINGS-RANGE")


def require_at_least(settings: object, least: int, *names: str) -> None:
    """Raise UsageError where a named setting is below `least`."""
    require_range(settings, f"at least {least}", lambda value: value >= least, *names)


def require_at_most(settings: object, most: int, *names: str) -> None:
    """Raise UsageError where a named setting is above `most`."""
    require_range(settings, f"at most {most}", lambda value: value <= most, *names)


def require_share(settings: object, *names: str) -> None:
    """Raise UsageError unless the named settings are at least 0 and below 1."""
    require_range(settings, "at least 0 and below 1", lambda share: 0 <= share < 1, *names)


def require_choice(settings: object, name: str, choices: Sequence[str]) -> None:
    """Raise UsageError where the named setting is not one of `choices`."""
    value = getattr(settings, name)
    if value not in choices:
        raise UsageError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}", code="E-SETTINGS-CHOICE"
        )


def require_local_paths(settings: object, *names: str) -> None:
    """Raise UsageError where a named setting, which is a path or "", is a URL."""
    for name in names:
        if path := getattr(settings, name):
            local_path(path)


S = TypeVar("S")


def load_settings(kind: type[S], *, config: Path | None, assignments: Sequence[str]) -> S:
    """Return the settings of a TOML file (or the defaults) with `key=value` texts on top.

    A key may lead into a table: `model.hidden=512`. Raises UsageError for a file that is not
    TOML, an unknown key (near matches are named) and a value of the wrong type or out of range.
    """
    return change_settings(kind, {} if config is None else _read_toml(config), assignments)


def change_settings(kind: type[S], values: Mapping[str, Any], assignments: Sequence[str]) -> S:
    """Return the settings that `values` holds, with `key=value` texts on top; raises likewise."""
    changed = copy.deepcopy(dict(values))
    for text in assignments:
        _assign(changed, *_parse_assignment(text))
    return settings_of(kind, changed)


def settings_of(kind: type[S], values: Mapping[str, Any], table: str = "") -> S:
    """Return the settings that `values` holds, the rest at its default."""
    types = typing.get_type_hints(kind)
    return kind(**{key: _checked(table, key, value, types) for key, value in values.items()})


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"model.hidden": 512, ...}` of a table of tables, arrays as tuples."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def find_config(name: str, presets: Path) -> Path:
    """Return the TOML file that `name` means: a path, or the bare name of a file in `presets`."""
    preset = presets / f"{name}.toml"
    path = local_path(name)
    if path.is_file():
        return path
    if preset.is_file():
        return preset
    known = ", ".join(sorted(path.stem for path in presets.glob("*.toml")))
    raise UsageError(
        f"no settings file or preset is named {name}; pass the path of a TOML file, or one of the "
        f"presets {known}",
        code="E-SETTINGS-FILE",
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, MAX_TOML_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a TOML settings file ({reason_of(error)})", code="E-SETTINGS-FILE"
        ) from None


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"--set takes key=value, such as --set epochs=3; got {text!r}", code="E-SETTINGS-ASSIGN"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except ValueError:  # or a number of thousands of digits
        parsed = value.strip()  # a bare word, which TOML would want in quotes
    except RecursionError:
        raise UsageError(
            f"--set {key.strip()}: its value is nested too deeply", code="E-SETTINGS-ASSIGN"
        ) from None
    return key.strip(), parsed


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `values["a"]["b"]` for the key "a.b"."""
    table, dot, inner = key.partition(".")
    if not dot:
        values[key] = value
        return
    inside = values.setdefault(table, {})
    if isinstance(inside, str):  # model=mcan, and now model.hidden=64
        inside = values[table] = {"name": inside}
    if not isinstance(inside, dict):
        raise UsageError(
            f"{table} is {inside!r}, not a table; {inner!r} cannot be set in it",
            code="E-SETTINGS-TABLE",
        )
    _assign(inside, inner, value)


def _checked(table: str, key: str, value: Any, types: Mapping[str, Any]) -> Any:
    """Return a value in the type of its setting; UsageError where it has another type."""
    name = table + key
    if key not in types:
        _refuse_key(name, [table + known for known in types])
    wanted = types[key]
    if kinds := {k.__dataclass_fields__["name"].default: k for k in _dataclasses(wanted)}:
        return _table(name, value, kinds, next(iter(kinds)))
    if typing.get_origin(wanted) is Literal:
        wanted = str  # which one it is has chosen the table, or its dataclass checks it
    if typing.get_origin(wanted) is tuple:
        return _array(name, value, typing.get_args(wanted)[0])
    return _scalar(name, value, wanted)


def _dataclasses(wanted: Any) -> list[Any]:
    return [k for k in (*typing.get_args(wanted), wanted) if dataclasses.is_dataclass(k)]


def _table(name: str, value: Any, kinds: Mapping[str, type], default: str) -> Any:
    """Return the settings of a table, of the kind that its key `name` says."""
    if isinstance(value, str):
        value = {"name": value}  # --set model=mcan: all else at that model's defaults
    if not isinstance(value, dict):
        raise UsageError(
            f"{name} must be a table with a name; got {value!r:.60}", code="E-SETTINGS-TABLE"
        )
    chosen = value.get("name", default)
    if not isinstance(chosen, str) or chosen not in kinds:
        raise UsageError(
            f"{name} must be one of {', '.join(kinds)}; got {chosen!r:.60}",
            code="E-SETTINGS-CHOICE",
        )
    return settings_of(kinds[chosen], value, f"{name}.")


def _array(name: str, value: Any, wanted: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(
            f"{name} must be an array, such as [0.9, 0.98]; got {value!r:.60}",
            code="E-SETTINGS-TYPE",
        )
    return tuple(_scalar(f"each of {name}", entry, wanted) for entry in value)


def _scalar(name: str, value: Any, wanted: Any) -> Any:
    if type(value) is int and not abs(value) < LARGEST:
        raise UsageError(
            f"{name} must be less than 2^63; got a number of {value.bit_length()} bits",
            code="E-SETTINGS-RANGE",
        )
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        article = "an" if wanted is int else "a"
        raise UsageError(
            f"{name} must be {article} {wanted.__name__}; got {value!r:.60}", code="E-SETTINGS-TYPE"
        )
    return value


def _refuse_key(name: str, known: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise UsageError(f"no setting is named {name!r}; {hint}", code="E-SETTINGS-NAME")
