"""Settings as the text of a TOML file, with the comments of the presets."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..base.files import read_text
from .settings import MAX_TOML_BYTES, flat_settings

# A line with a setting: its name, its value (a text, an array or a word), and a comment.
SETTING = re.compile(r'(\w+) *= *("[^"]*"|\[[^\]]*\]|[^\s#"\[]+) *(?:# *(.*))?')
TABLE = re.compile(r"\[(\w+)\] *(#.*)?")
LISTS = ("default.toml", "stage1.toml", "r2r.toml")  # the preset of a task that lists every setting
COMMENT_COLUMN = 26


def settings_text(settings: Any, config: Path | None, presets: Path) -> str:
    """Return all settings as a TOML file, which `load_settings` reads to the same settings.

    `config` is the file that they came from, whose header is kept, and `presets` the folder of the
    task's presets. A setting has its comment of `config` if it has its value too, else that of the
    preset that lists every setting, which also decides the order.
    """
    listed = next(presets / name for name in LISTS if (presets / name).is_file())
    values = _flat(dataclasses.asdict(settings))
    comments = _comments(listed, values)
    if config is not None:
        comments |= _comments(config, values, same=True)
    header, body = _parts(listed)
    lines = header if config is None else _parts(config)[0]
    table = ""

    def line_of(name: str) -> str:
        text = f"{name.rpartition('.')[2]} = {_toml(values.pop(name))}"
        comment = comments.get(name)
        return f"{f'{text}  '.ljust(COMMENT_COLUMN)}# {comment}" if comment else text

    def others() -> list[str]:
        """Return the lines of the table's settings that the preset does not list."""
        return [line_of(name) for name in list(values) if name.rpartition(".")[0] == table]

    for line in body:
        if title := TABLE.fullmatch(line):
            while lines and not lines[-1]:
                lines.pop()
            lines += [*others(), "", line]
            table = title[1]
        elif setting := SETTING.fullmatch(line):
            name = f"{table}.{setting[1]}" if table else setting[1]
            if name in values:
                lines.append(line_of(name))
        elif not line or not lines[-1]:  # a comment after a blank line is the title of a part
            lines.append(line)
    return "\n".join([*lines, *others()]) + "\n"


def _parts(path: Path) -> tuple[list[str], list[str]]:
    """Return the comment at the head of a file, and all lines after it."""
    lines = read_text(path, MAX_TOML_BYTES).splitlines()
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    return header, lines[len(header) :]


def _comments(path: Path, values: Mapping[str, Any], *, same: bool = False) -> dict[str, str]:
    """Return {setting: its comment} of a file; with `same`, of settings that have its value.

    Those of another model are left out, since its settings may mean something else.
    """
    given = _flat(tomllib.loads(read_text(path, MAX_TOML_BYTES)))
    other_model = given.get("model.name", values["model.name"]) != values["model.name"]
    comments: dict[str, str] = {}
    table = ""
    for line in _parts(path)[1]:
        if title := TABLE.fullmatch(line):
            table = f"{title[1]}."
        elif (setting := SETTING.fullmatch(line)) and setting[3]:
            name = table + setting[1]
            if same and given.get(name) != values.get(name):
                continue
            if not (other_model and table == "model."):
                comments[name] = setting[3]
    return comments


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `flat_settings` without the names of tables that are not models."""
    flat = flat_settings(values)
    return {k: v for k, v in flat.items() if not k.endswith(".name") or k == "model.name"}


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
