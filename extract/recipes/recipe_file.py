"""A user's own recipe, from a TOML file."""

import difflib
import re
import tomllib
from typing import Any

from ...base.files import local_path, read_bytes
from ..errors import ExtractUsageError

KEYS = ("name", "steps", "interpolation", "mean", "std", "layer", "vector", "decoder")
NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
MAX_BYTES = 1 << 16


def read_recipe_file(path: str, cell: tuple[int, int]) -> dict[str, Any]:
    """Return the keys of a recipe file, with what depends on the backbone filled in.

    Steps that count in cells get the backbone's `cell`, (height, width) in pixels; a conversion
    to RGB is added at the end where there is none. The values themselves are not checked yet.
    Raises ExtractUsageError for a file that cannot be read, or whose keys are not those of one.
    """

    def refuse(why: str) -> ExtractUsageError:
        return ExtractUsageError(f"--recipe {path}: {why}")

    try:
        content = read_bytes(local_path(path), MAX_BYTES, follow=True)
        given = tomllib.loads(content.decode())
    except OSError as error:
        raise refuse(f"cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not valid TOML: {error}") from None
    for key in given:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(KEYS)}"
            raise refuse(f"no such key {key!r:.80}; {hint}")
    name, steps = given.get("name"), given.get("steps")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise refuse("name: expected a letter, then up to 63 letters, digits, dots, _ or -")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise refuse('steps: expected a list of tables, such as { step = "shortest", side = 384 }')
    defaults = {
        "pad": {"turn": False, "odd": "last", "cell": list(cell)},
        "whole-cells": {"cell": list(cell)},
    }
    filled = [{**defaults.get(str(step.get("step")), {}), **step} for step in steps]
    if not any(step.get("step") == "rgb" for step in steps):
        filled.append({"step": "rgb"})
    return {**given, "steps": filled}
