"""Our store against its peers: bytes, writing, random and sequential reads.

python -m benchmarks.store [--kinds A B] [--records N] [--rounds N] [--folder DIR] [--json FILE]

The page cache is warm but for the column "cold 64". Numbers are medians; a batch is one new
array in the caller's memory unless a name says otherwise. Write MB/s count the float16 bytes of
the records, and end when everything is on the disk. Each reader has a process of its own: "peak MB" is
the most that it had resident while it was timed, above what its package takes; pages of files that it
maps count.
"""

import argparse
import json
import platform
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from clipfeat.base.machine import usable_cores

from .formats import FORMATS
from .measure import (
    BATCHES,
    COLD_BATCH,
    SINGLES,
    NotColdError,
    Rates,
    batch,
    check,
    random_rows,
    singles,
    take_turns,
    whole_pass,
    write,
)
from .process import ReaderProcess, in_process
from .reader import Format, Reader
from .records import KINDS, Kind, make_records
from .report import Report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--records", type=int, help="of each kind; by default 1024 A and 512 B")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each reader")
    parser.add_argument("--folder", type=Path, default=Path(), help="where files go for a while")
    parser.add_argument("--json", type=Path, help="save every number here")
    arguments = parser.parse_args()

    versions = installed_versions()
    print(f"{usable_cores()} cores, Python {platform.python_version()}")
    for distribution, version in versions.items():
        print(f"{distribution} {version}" if version else f"not installed: {distribution}")
    reports = []
    for name in arguments.kinds:
        kind = KINDS[name]
        count = arguments.records or kind.count
        if count < max(BATCHES):
            print(f"only {count} records: larger batches hold no more than that")
        report = measure(kind, count, arguments.rounds, arguments.folder)
        print(f"\n{report}", flush=True)
        reports.append(report.to_json())
    if arguments.json:
        content = {"cores": usable_cores(), "versions": versions, "kinds": reports}
        arguments.json.write_text(json.dumps(content, indent=1))


def installed_versions() -> dict[str, str | None]:
    """Return {distribution: its version, or None} of every peer and what all build on."""
    packages = [reader.package for form in FORMATS for reader in form.readers]
    versions = {name: metadata.version(name) for name in ("numpy", "numcodecs", "zarr")}
    return versions | {p.distribution: p.version for p in packages if p}


def usable(part: Format | type[Reader]) -> bool:
    """Return whether the package that a format or a reader needs is there."""
    return part.package is None or part.package.version is not None


def measure(kind: Kind, count: int, rounds: int, folder: Path) -> Report:
    """Write and read `count` records of a kind in every format there is a package for."""
    records = make_records(kind, count)
    formats = list(filter(usable, FORMATS))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        folders = {form.name: Path(root).resolve() / form.name for form in formats}
        written = {
            form.name: in_process(partial(write, form, records, folders[form.name]))
            for form in formats
        }
        kinds = {
            f"{form.name}: {reader.name}": (reader, folders[form.name])
            for form in formats
            for reader in filter(usable, form.readers)
        }
        readers = {
            name: ReaderProcess(name, kind, records, where) for name, (kind, where) in kinds.items()
        }
        rates = read(
            len(records), readers, {name: kind for name, (kind, _) in kinds.items()}, rounds
        )
        peaks = {name: reader.peak() for name, reader in readers.items()}
        for reader in readers.values():
            reader.close()
    return Report(records, written, rates, peaks)


def read(
    records: int,
    readers: dict[str, ReaderProcess],
    kinds: dict[str, type[Reader]],
    rounds: int,
) -> dict[str, dict[str, Rates]]:
    """Return {task: {reader: rates}}, after checking that all return what was written."""
    rows = random_rows(np.random.default_rng(1), records, max(BATCHES))
    for reader in readers.values():
        reader.call(check, rows)
        reader.forget_peak()
    by_row = {name: reader for name, reader in readers.items() if kinds[name].random_access}
    cold = {name: reader for name, reader in readers.items() if kinds[name].cold}
    rates = {
        "single": take_turns(by_row, singles, records, SINGLES, rounds),
        **{f"batch {n}": take_turns(by_row, batch, records, n, rounds) for n in BATCHES},
        "pass": take_turns(readers, whole_pass, records, 0, rounds),
    }
    try:
        rates[f"cold {COLD_BATCH}"] = take_turns(
            cold, batch, records, COLD_BATCH, rounds, cold=True
        )
    except NotColdError as error:
        print(f"cold reads not measured, try another --folder: {error}")
    return rates


if __name__ == "__main__":
    main()
