"""Whatever a store, a file or its name contains, terminals receive no control characters."""

import ast
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import forge_column, reseal
from small_world import FIRST, IDENTITY, layout_of, write_shard
from stores import make_store

from clipfeat.base.text import printable_lines
from clipfeat.cli.main import main
from clipfeat.cli.options import json_text, show
from clipfeat.featstore.layout import Part
from clipfeat.featstore.writing.writer import StoreWriter

ROOT = Path(__file__).parents[2]
ESCAPE = "\x1b]0;owned\x07\x9b31m"  # sets the window's title; colours text, in one C1 byte
ESCAPED = r"\x1b]0;owned\x07\x9b31m"


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command in this process; return its exit code and all that it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["clipfeat", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        printed = said.out + said.err
        assert printed == printable_lines(printed)
        return ended.value.code, printed

    return run


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    grids = {f"i{k}": rng.standard_normal((2, 3, 16)).astype(np.float16) for k in range(3)}
    return make_store(tmp_path / f"s{ESCAPE}", grids)


@pytest.mark.parametrize("command", ["verify", "repair"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_stray_file(run, store, command, more):
    (store / f"stray{ESCAPE}").touch()
    code, printed = run("store", command, store, *more)
    assert code == 1
    text = printed.replace("\\u00", r"\x") if more else printed
    assert f"stray{ESCAPED}" in text
    assert f"s{ESCAPED}" in printed or more


@pytest.mark.parametrize(
    "column",
    ["sha256", "shape", "path"],
)
def test_a_packing_list(run, store, column):
    forge_column(store, "shards", column, [ESCAPE])
    for command in ("verify", "repair"):
        code, printed = run("store", command, store)
        assert code == 1
        assert ESCAPED in printed


@pytest.mark.parametrize("key", ["digest", "checksum", "parents", "tables"])
def test_a_text_that_is_not_a_hash_is_refused(run, store, key):
    tables = json.loads((store / "store.json").read_text())["tables"]
    values = {"parents": [ESCAPE], "tables": {**tables, "index": ESCAPE}, "digest": ESCAPE}
    if key == "checksum":
        card = json.loads((store / "store.json").read_text())
        (store / "store.json").write_text(json.dumps({**card, "checksum": ESCAPE}))
    else:
        reseal(store, **{key: values[key]})
    code, printed = run("store", "digest", store)
    assert code == 1
    expected = "E-STORE-CHECKSUM" if key == "checksum" else "E-STORE-METADATA"
    assert f"[{expected}]" in printed


def test_finishing_says_who_is_gone_and_what_is_lacking(run, tmp_path):
    path = tmp_path / f"s{ESCAPE}"
    _, layout = layout_of(path, FIRST)
    with StoreWriter(path, IDENTITY, layout, part=Part(1, 3)) as writer:
        write_shard(path, writer.pending[0])
    holder = {"host": f"far{ESCAPE}", "pid": 7, "since": ESCAPE}
    (path / "journal/lock").write_text(json.dumps(holder))
    code, printed = run("store", "finish", path)
    assert (code, f"process 7 on far{ESCAPED}" in printed) == (1, True)
    code, printed = run("store", "finish", path, "--break-lock")
    assert code == 1
    assert f"Taking over the lock of process 7 on far{ESCAPED}" in printed
    assert f"s{ESCAPED} lacks" in printed


@pytest.mark.parametrize("word", ["--no-such-option", "surplus"])
def test_a_word_that_the_shell_found(run, store, word):
    code, printed = run("store", "digest", store, f"{word}{ESCAPE}")
    assert (code, f"{word}{ESCAPED}" in printed) == (2, True)


@pytest.mark.parametrize("table", ["index", "shards"])
def test_a_broken_table_is_named_once_and_has_one_remedy(run, store, table):
    (store / f"{table}.parquet").write_bytes(b"PAR1 and so on")
    reseal(store)
    code, printed = run("store", "verify", store)
    result, line = printed.splitlines()
    assert (code, result.endswith(": 1 problem")) == (1, True)
    assert line.startswith(f"{table}.parquet: not a readable Parquet file: ")
    assert line.endswith("; copy this file again from its source")
    assert line.count(f"{table}.parquet") == line.count("again from its source") == 1


def test_a_file_that_cannot_be_used_is_named_once(run, store, tmp_path):
    (store / "journal").mkdir()
    (tmp_path / "precious").write_text("thesis")
    (store / "journal/lock").hardlink_to(tmp_path / "precious")
    code, printed = run("store", "repair", store)
    name = printable_lines(str(store / "journal/lock"))
    why = "is a hard link: writing would change another file too; replace it by a copy"
    assert (code, printed) == (1, f"Error: {name} {why}\n")
    assert (tmp_path / "precious").read_text() == "thesis"


def test_json_keeps_letters_and_escapes_what_a_terminal_acts_on():
    record = {"caption": f"café, 猫, हिन्दी {ESCAPE}\n\u202e\U000e0001"}
    text = json_text(record, indent=1)
    assert text == printable_lines(text)
    assert all(letters in text for letters in ("café", "猫", "हिन्दी"))
    assert json.loads(text) == record


def test_everything_is_printed_by_functions_that_make_it_printable():
    """Results go through `tell` and `show`, the rest is logged; columns are escaped one by one."""
    allowed = {"base/text.py", "cli/options.py"}
    # Printable columns with tabs between them; the output of the processes of a group.
    written = {"cli/store.py", "cli/predict.py", "train/launch.py"}
    found, wrote = set(), set()
    for room in ("base", "manifests", "featstore", "extract", "train", "demo", "cli"):
        for file in (ROOT / room).rglob("*.py"):
            calls = [
                n.func for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)
            ]
            names = {ast.unparse(call) for call in calls}
            if names & {"print", "click.echo", "click.secho"}:
                found.add(file.relative_to(ROOT).as_posix())
            if any(re.fullmatch(r"sys\.std(out|err)(\.buffer)?\.write(lines)?", n) for n in names):
                wrote.add(file.relative_to(ROOT).as_posix())
    assert (found, wrote) == (allowed, written)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_whatever_the_terminal_has(encoding, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", shown)
    record = {"caption": "café, 猫, 🐈"}
    show(record, "", as_json=True)
    shown.flush()
    assert json.loads(shown.buffer.getvalue().decode(encoding)) == record
