"""Settings: one frozen dataclass for each task, read from TOML with `key=value` on top."""

import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..base.errors import UsageError

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the shared loop obeys; a task's own settings extend it with their fields."""

    seed: int = 0
    epochs: int = 15
    batch_size: int = 64  # examples an update
    accumulate: int = 1  # parts that a batch is computed in; more parts take less memory
    lr: float = 2e-3  # highest learning rate of the schedule
    warmup: float = 0.05  # share of all updates in which the rate rises to `lr`
    weight_decay: float = 0.01
    clip_norm: float = 1.0  # largest norm of the gradient
    precision: str = "float32"  # of the forward pass; weights stay float32
    log_every: int = 10  # updates a line of metrics.jsonl

    def __post_init__(self) -> None:
        require_at_least(self, 1, "epochs", "batch_size", "accumulate", "log_every")
        require_at_least(self, 0, "seed", "weight_decay")
        require_choice(self, "precision", PRECISIONS)
        if not 0 <= self.warmup <= 1:
            raise UsageError(f"warmup is a share of the updates, 0 to 1; got {self.warmup}")
        for name in ("lr", "clip_norm"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be more than 0; got {getattr(self, name)}")


S = TypeVar("S", bound=LoopSettings)


def require_at_least(settings: LoopSettings, least: int, *names: str) -> None:
    """Raise UsageError where a named setting is below `least`."""
    for name in names:
        if getattr(settings, name) < least:
            raise UsageError(f"{name} must be at least {least}; got {getattr(settings, name)}")


def require_choice(settings: LoopSettings, name: str, choices: Sequence[str]) -> None:
    """Raise UsageError where the named setting is none of `choices`."""
    value = getattr(settings, name)
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def load_settings(kind: type[S], *, config: Path | None, assignments: Sequence[str]) -> S:
    """Return the settings of a TOML file (or the defaults) with `key=value` texts on top.

    Raises UsageError for a file that is not TOML, an unknown key (near matches are named) and
    a value of the wrong type or out of range.
    """
    values = {} if config is None else _read_toml(config)
    return settings_of(kind, {**values, **dict(map(_parse_assignment, assignments))})


def settings_of(kind: type[S], values: Mapping[str, Any]) -> S:
    """Return the settings that `values` holds, the rest at its default."""
    types = typing.get_type_hints(kind)
    return kind(**{key: _checked(key, value, types) for key, value in values.items()})


def find_config(name: str, presets: Path) -> Path:
    """Return the TOML file that `name` means: a path, or the bare name of a file in `presets`."""
    preset = presets / f"{name}.toml"
    if Path(name).is_file():
        return Path(name)
    if preset.is_file():
        return preset
    known = ", ".join(sorted(path.stem for path in presets.glob("*.toml")))
    raise UsageError(f"no settings file {name}; pass the path of a TOML file or one of: {known}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not a TOML settings file ({error})") from None


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, such as --set epochs=3; got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word, which TOML would want in quotes
    return key.strip(), parsed


def _checked(key: str, value: Any, types: Mapping[str, type]) -> Any:
    if key not in types:
        near = difflib.get_close_matches(key, types, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(types)}"
        raise UsageError(f"no setting is named {key!r}; {hint}")
    wanted = types[key]
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        article = "an" if wanted is int else "a"
        raise UsageError(f"{key} must be {article} {wanted.__name__}; got {value!r}")
    return value
