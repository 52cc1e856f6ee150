"""The steps of a recipe to and from JSON, which may come from a stranger's store."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_args

from .errors import StoreError
from .steps import (
    RGB,
    Cover,
    Crop,
    Fit,
    Pad,
    Shortest,
    ShortestDetectron2,
    ShortestMaskRCNN,
    Step,
    Stretch,
    WholeCells,
)

MAX_SIDE = 4096  # pixels
MAX_STEPS = 16
NAMES: dict[str, type[Step]] = {
    "stretch": Stretch,
    "shortest": Shortest,
    "shortest-detectron2": ShortestDetectron2,
    "shortest-maskrcnn": ShortestMaskRCNN,
    "fit": Fit,
    "cover": Cover,
    "whole-cells": WholeCells,
    "crop": Crop,
    "pad": Pad,
    "rgb": RGB,
}


def step_json(step: Step) -> dict[str, Any]:
    """Return a step as a JSON object: `step`, its name, and its numbers."""
    name = next(name for name, kind in NAMES.items() if type(step) is kind)
    numbers = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(step).items()}
    return {"step": name, **numbers}


def parse_step(value: Any) -> Step:
    """Return the step that `step_json` gave, raising StoreError for any other value."""
    if not isinstance(value, Mapping):
        raise StoreError(f"a step must be an object with the key step; got {value!r:.80}")
    name = value.get("step")
    if not isinstance(name, str) or name not in NAMES:
        near = difflib.get_close_matches(str(name)[:80], NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(NAMES)}"
        raise StoreError(f"step {name!r:.80}: no such step; {hint}")
    fields = {field.name: field.type for field in dataclasses.fields(NAMES[name])}
    given = {key: value[key] for key in value if key != "step"}
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(str(key)[:80], fields, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(fields) or 'none'}"
            raise StoreError(f"step {name}: no such key {key!r:.80}; {hint}")
    for key, kind in fields.items():
        if key not in given:
            raise StoreError(f"step {name}: the key {key} is missing")
        given[key] = _checked(f"step {name}: {key}", given[key], kind)
    return NAMES[name](**given)


def _checked(what: str, value: Any, kind: Any) -> Any:
    """Return a number of a step, raising StoreError unless it is one of its kind."""

    def is_side(number: Any) -> bool:
        return type(number) is int and 1 <= number <= MAX_SIDE

    if kind is int and is_side(value):
        return value
    if kind is bool and type(value) is bool:
        return value
    if get_args(kind) == (int, int) and isinstance(value, list | tuple) and len(value) == 2:
        if all(map(is_side, value)):
            return tuple(value)
    elif isinstance(value, str) and value in get_args(kind):
        return value
    sides = f"1 to {MAX_SIDE} pixels"
    expected = {int: sides, bool: "true or false", tuple[int, int]: f"two of {sides}"}
    words = expected.get(kind) or " or ".join(map(str, get_args(kind)))
    raise StoreError(f"{what}: expected {words}; got {value!r:.80}")
