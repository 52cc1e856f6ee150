"""The machine that a benchmark runs on, in one line for docs/log.md.

    python -m benchmarks.machine

Numbers of one processor do not hold on another: what decides is its instruction sets, so that
they stand beside every number.
"""

import platform
from datetime import UTC, datetime

from clipfeat.base.machine import describe_processor


def main() -> None:
    """Print the date, the machine and the Python."""
    today = datetime.now(UTC).date()
    print(f"{today}: {describe_processor()}; Python {platform.python_version()}")


if __name__ == "__main__":
    main()
