"""Our store against its peers: bytes, writing, random and sequential reads.

python -m benchmarks.store [--kinds A B] [--records N] [--rounds N] [--folder DIR] [--json FILE]

The page cache is warm but for the column "cold 64". Numbers are medians; a batch is one new
array in the caller's memory unless a name says otherwise. Write MB/s count the float16 bytes of
the records, and end when everything is on the disk.
"""

import argparse
import json
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

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
from .reader import Format, Reader
from .records import KINDS, Kind, Records, make_records
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
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
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
        content = {"cores": os.cpu_count(), "versions": versions, "kinds": reports}
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
        written = {form.name: write(form, records, folders[form.name]) for form in formats}
        readers = {
            f"{form.name}: {reader.name}": reader(records, folders[form.name])
            for form in formats
            for reader in filter(usable, form.readers)
        }
        report = Report(records, written, read(records, readers, rounds), list(readers))
        for reader in readers.values():
            reader.close()
    return report


def read(records: Records, readers: dict[str, Reader], rounds: int) -> dict[str, dict[str, Rates]]:
    """Return {task: {reader: rates}}, after checking that all return what was written."""
    rows = random_rows(np.random.default_rng(1), len(records), max(BATCHES))
    for reader in readers.values():
        check(reader, rows)
    by_row = {name: reader for name, reader in readers.items() if reader.random_access}
    cold = {name: reader for name, reader in readers.items() if reader.cold}
    rates = {
        "single": take_turns(by_row, singles, SINGLES, rounds),
        **{f"batch {n}": take_turns(by_row, batch, n, rounds) for n in BATCHES},
        "pass": take_turns(readers, whole_pass, 0, rounds),
    }
    try:
        rates[f"cold {COLD_BATCH}"] = take_turns(cold, batch, COLD_BATCH, rounds, cold=True)
    except NotColdError as error:
        print(f"cold reads not measured, try another --folder: {error}")
    return rates


if __name__ == "__main__":
    main()
