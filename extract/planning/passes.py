"""How the records of a shard are cut into passes through the backbone: a pure function."""

import math
from dataclasses import dataclass

# Images that a CPU thread computes at a time. The number is fixed, and each thread's kernels run
# on it alone: how they sum then depends neither on the number of threads nor on the batch.
CHUNK = 4
SPARE = 10  # for so many records of a shard a GPU computes at most one black one more


@dataclass(frozen=True)
class Passes:
    """How many records go through the backbone at once.

    What a record's numbers depend on, beside its pixels, is the number of rows of its pass: how
    kernels sum is chosen by it. So the passes of a shard follow from its length alone, never from
    what is already written or who computes, and a pass that is not full is padded with black.
    """

    most: int  # records in one pass
    unit: int | None  # on a CPU, which computes any multiple of it alike; None: a GPU

    @classmethod
    def of(cls, images: int, views: int, shard_records: int, *, on_cpu: bool) -> "Passes":
        """Return the passes of at most `images` images, of which a record has `views`.

        No pass spans two shards, so none is larger than one of `shard_records`. On a CPU the
        number is rounded up to whole chunks.
        """
        records = max(1, images // views)
        if on_cpu:
            unit = CHUNK // math.gcd(CHUNK, views)
            return cls(_rounded(min(records, shard_records), unit), unit)
        return cls(min(records, _power_of_two(shard_records)), None)

    def rows(self, records: int) -> tuple[int, ...]:
        """Return the rows of each pass over a shard of `records`: the last ones may be padded.

        On a GPU the rest of a shard takes powers of two, ever smaller ones, as long as a larger
        one would be padded by more than a tenth of the shard.

        >>> Passes(64, None).rows(128), Passes(64, None).rows(100), Passes(64, None).rows(7)
        ((64, 64), (64, 32, 4), (4, 2, 1))
        >>> Passes(16, 4).rows(21)
        (16, 8)
        """
        rows: list[int] = []
        spare, left = records // SPARE, max(1, records)  # a shard of no records has one pass, too
        while left > 0:
            if self.unit is not None:
                size = min(self.most, _rounded(left, self.unit))
            else:
                size = min(self.most, _power_of_two(left))
                while size - left > spare:
                    size = _power_of_two(size) // 2
            rows.append(size)
            left -= size
        return tuple(rows)


def _rounded(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
