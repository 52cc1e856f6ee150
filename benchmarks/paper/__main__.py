"""The rows of the paper: python -m benchmarks.paper ROW --data DATA --out OUT.

Without a row, all are listed. --dry rehearses them: all, the named ones, or --sample N.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from queue import Queue

from clipfeat.base.errors import ClipfeatError, UsageError

from .page import PAGE, page
from .rows import Row, rows
from .run import Runner


def main() -> None:
    """Run or list rows; the exit code says whether all went through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="*", help="names of rows")
    parser.add_argument("--data", type=Path, help="folder of the public files")
    parser.add_argument("--out", type=Path, help="folder of the results; with --dry, to keep them")
    parser.add_argument("--dry", action="store_true", help="rehearse on small data")
    parser.add_argument("--sample", type=int, help="with --dry: so many rows, chosen by the commit")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args()
    try:
        sys.exit(_run(options))
    except ClipfeatError as error:
        sys.exit(f"Error: {error} [{error.code}]")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")


def _run(options: argparse.Namespace) -> int:
    chosen = _choose(options.row)
    if options.page:
        PAGE.write_text(page())
        return 0
    if options.dry:
        return _rehearse(chosen, options)
    if not options.row:
        for row in rows():
            print(f"{row.name:30} {row.table}: {row.title}")
        return 0
    if options.data is None or options.out is None:
        raise UsageError(
            "--data must be the folder of the public files (docs/reproduce.md), and --out that of "
            "the results; one of them is missing",
            code="E-OPTION-MISSING",
        )
    if not options.data.is_dir():
        raise UsageError(
            f"--data {options.data} is not a folder; docs/reproduce.md says which files it has",
            code="E-DATA-FOLDER",
        )
    runner = Runner(options.data.absolute(), options.out.absolute())
    return _report(runner.run(chosen, jobs=options.jobs))


def _choose(names: list[str]) -> list[Row]:
    of_name = {row.name: row for row in rows()}
    for name in names:
        if name not in of_name:
            raise UsageError(
                f"no row {name}; python -m benchmarks.paper lists them", code="E-PAPER-ROW"
            )
    return [row for row in of_name.values() if not names or row.name in names]


def _rehearse(chosen: list[Row], options: argparse.Namespace) -> int:
    from .forks import Forks
    from .rehearsal import prepare, rewrite, sample

    start = time.perf_counter()
    if options.sample:
        chosen = sample(chosen, options.sample)
    with ExitStack() as stack:
        kept = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = kept.absolute()
        prepare(folder)
        idle: Queue[Forks] = Queue()
        for _ in range(options.jobs):
            idle.put(stack.enter_context(Forks()))

        def execute(words: list[str]) -> tuple[int, str]:
            if words[0] != "clipfeat":
                return subprocess.run(words, check=False).returncode, ""
            forks, began = idle.get(), time.perf_counter()
            code, printed = forks(rewrite(words, folder / "small"))
            idle.put(forks)
            shown = shlex.join(words).replace(f"{folder}/", "")
            print(f"{time.perf_counter() - began:6.1f} s  {shown}", flush=True)
            return code, printed

        runner = Runner(folder / "data", folder / "out", execute)
        failures = runner.run(chosen, jobs=options.jobs)
    took = time.perf_counter() - start
    print(f"{len(chosen)} rows, {len(runner.seconds)} commands, {took:.0f} s")
    return _report(failures)


def _report(failures: dict[str, str]) -> int:
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    main()
