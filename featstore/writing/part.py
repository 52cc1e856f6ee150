"""Part 3 of 16: which shards of a layout one of many machines writes."""

import re
from dataclasses import dataclass
from typing import Self

from ...base.errors import UsageError

MAX_PARTS = 100_000
TEXT = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
LOCK_NAME = re.compile(r"part-([1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})\.lock")


@dataclass(frozen=True, order=True)
class Part:
    """One of `of` runs that together write all shards, counted from 1; its text is `3/16`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that `text` names, raising UsageError unless it is like `3/16`."""
        match = TEXT.fullmatch(text)
        part = cls(*map(int, match.groups())) if match else None
        if part is None or not part.number <= part.of <= MAX_PARTS:
            raise UsageError(
                f"--shard-range must be K/N, part K of N, with K from 1 to N, like 3/16; "
                f"got {text!r:.80}"
            )
        return part

    def shards(self, count: int) -> range:
        """Return the numbers of this part's shards among `count`.

        The parts lie one after another, share no shard and leave none out; one has at most one
        shard more than another.

        >>> [list(Part(k, 3).shards(7)) for k in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * count // self.of, self.number * count // self.of)

    @property
    def lock_name(self) -> str:
        """Return the file in the journal that says who writes this part."""
        return f"part-{self.number}-of-{self.of}.lock"

    @classmethod
    def of_lock(cls, name: str) -> Self | None:
        """Return the part whose lock a file of this name is, if it is one."""
        match = LOCK_NAME.fullmatch(name)
        return cls(*map(int, match.groups())) if match else None


def part_with(shard: int, count: int, of: int) -> Part:
    """Return which of `of` parts has shard number `shard` among `count`."""
    return Part(((shard + 1) * of - 1) // count + 1, of)
