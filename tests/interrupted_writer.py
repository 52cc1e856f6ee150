"""Write a small store, printing and pausing after each shard, so that a test can interrupt it.

Run as a process of its own: interrupted_writer.py STORE PAUSE [LARGEST FILE IN BYTES]
"""

import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
from stores import make_store

from clipfeat.featstore.writing.journal import Journal
from clipfeat.featstore.writing.receipts import Receipt

RECORDS = {
    f"i{k:03}": np.random.default_rng(k).standard_normal((2, 3, 16)).astype(np.float16)
    for k in range(60)
}


def main(path: Path, pause: float, largest_file: int | None) -> None:
    if largest_file is not None:  # a file that may not grow is what a full disk looks like
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    write_receipt = Journal.write_receipt

    def tell(self: Journal, receipt: Receipt) -> None:
        write_receipt(self, receipt)
        print(receipt.shard, flush=True)
        time.sleep(pause)

    Journal.write_receipt = tell
    make_store(path, RECORDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None)
