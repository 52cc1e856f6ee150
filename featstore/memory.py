"""Memory of batches, used again once nobody refers to it."""

import sys
from collections import deque
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

KEPT = 2  # the batch that a loop works on, and the next one


class BufferPool:
    """Gives out memory, and the same memory again; at most `kept` buffers stay with it.

    New memory must be cleared by the kernel before it can be filled, which takes about as long
    as filling it. A buffer is given out again when no array, view or tensor refers to it any
    more. There is no lock that a fork could find locked: a deque's own steps are atomic.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._buffers: deque[Bytes] = deque(maxlen=kept)

    def take(self, size: int) -> Bytes:
        """Return `size` bytes of any content, which nobody else has."""
        for _ in range(self._kept):
            try:
                held = [self._buffers.popleft()]
            except IndexError:
                break
            is_idle = _references(held) == IDLE
            self._buffers.append(held[0])
            if is_idle and held[0].size >= size:
                return held[0][:size]
        buffer = np.empty(size, np.uint8)
        self._buffers.append(buffer)
        return buffer[:]


def _references(held: list[Bytes]) -> int:
    """Return how many references there are to the buffer in a list, a few of them our own."""
    return sys.getrefcount(held[0])


IDLE = _references([np.empty(0, np.uint8)])
