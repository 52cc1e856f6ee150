"""What import and export of a table of regions cost, beside `cp` of the same file in the same run.

make bench-exchange                       # a file of 500 MB in bottom-up attention's format
make bench-exchange BENCH="--mb 2000"

The numbers are made: 36 regions of 2048 positive float32 numbers, which compress as badly as those of
detectors do. Trust the ratios, not the rates.
"""

import argparse
import base64
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

REGIONS, DIM = 36, 2048
MADE = 64  # images whose numbers differ; then they repeat
CLIPFEAT = (sys.executable, "-m", "clipfeat.cli")


def make_table(path: Path, size: int) -> int:
    """Write a table of about `size` bytes; return its number of images."""
    rng = np.random.default_rng(0)
    texts: list[bytes] = []
    for _ in range(MADE):
        features = rng.gamma(0.5, 1.0, (REGIONS, DIM)).astype(np.float32)
        boxes = rng.uniform(0, 480, (REGIONS, 4)).astype(np.float32)
        numbers = b"\t".join(map(base64.b64encode, (boxes.tobytes(), features.tobytes())))
        texts.append(b"\t640\t480\t%d\t%s\r\n" % (REGIONS, numbers))
    images = 0
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(b"%d%s" % (images, texts[images % MADE]))
            images += 1
    return images


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return seconds on the clock and of the processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def commands(table: Path, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (what it does, command); those that come later read what earlier ones wrote."""
    source = [str(table), "--as", "bottom-up-tsv"]
    yield "cp", ["cp", str(table), str(folder / "copy.tsv")]
    for name, options in (
        ("float32, zstd", []),
        ("float32, none", ["--codec", "none"]),
        ("float16, zstd", ["--dtype", "float16"]),
    ):
        out = str(folder / name.replace(", ", "-"))
        yield f"import, {name}", [*CLIPFEAT, "import", *source, "-o", out, *options]
    for name in ("float32-zstd", "float32-none"):
        out = ["--as", "bottom-up-tsv", "-o", str(folder / f"{name}.tsv")]
        yield f"export, {name}", [*CLIPFEAT, "export", str(folder / name), *out]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, default=500, help="size of the table")
    parser.add_argument("--folder", type=Path, default=Path(), help="where files go for a while")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name).resolve()
        table = folder / "table.tsv"
        images = make_table(table, int(arguments.mb * 1e6))
        size = table.stat().st_size / 1e6
        print(f"{images:,} images of {REGIONS} regions, {size:,.0f} MB; MB are those of the table")
        for what, command in commands(table, folder):
            seconds, used = measured(command)
            print(f"{what:24} {size / seconds:8.0f} MB/s {used:8.2f} processor s {seconds:8.2f} s")
        exported = (folder / "float32-zstd.tsv").read_bytes()
        lines = sorted(table.read_bytes().replace(b"\r\n", b"\n").splitlines())
        print("the exported table has the same lines:", sorted(exported.splitlines()) == lines)


if __name__ == "__main__":
    main()
