"""Write the files of one shard and commit them together; any process may run one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from ..disk.checks import check_folders
from ..disk.shard_file import ShardWriter
from ..format import Identity, IndexRow
from ..layout import Shard
from .journal import Journal, Receipt
from .libraries import checked_libraries


class ShardTransaction:
    """One shard in the making: leaving the block without `commit` leaves nothing behind.

    `libraries` are the versions of what touches pixels in this process, {name: version}. They
    are recorded in the receipt and at last in store.json, and are no part of the digest.
    """

    def __init__(
        self,
        store: Path,
        identity: Identity,
        shard_records: int,
        shard: Shard,
        libraries: Mapping[str, str],
    ):
        check_folders(store, [str(shard.shape)], identity.arrays)
        self._journal = Journal(store)
        self._journal.refuse_link()
        self._shard = shard
        self._libraries = checked_libraries(dict(libraries))
        self._files: dict[str, ShardWriter] = {}
        try:
            for array in identity.arrays:
                temporary = self._journal.temporary(f"{shard.number:08}.{array}")
                self._files[array] = ShardWriter(store, temporary, shard, array, shard_records)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was not committed."""
        for file in self._files.values():
            file.close()

    def append(self, position: int, encoded: Mapping[str, bytes]) -> None:
        """Write the encoded arrays of the record at `position` in the shard, in that order."""
        for array, file in self._files.items():
            file.append(position, encoded[array])

    def commit(self, records: tuple[IndexRow, ...]) -> Receipt:
        """Give the files their names, then write the receipt, which makes the shard done."""
        files = tuple(file.commit() for file in self._files.values())
        receipt = Receipt.of(self._shard.number, files, records, self._libraries)
        self._journal.write_receipt(receipt)
        return receipt
