"""Decoder processes: they read, decode and resize images into memory that they share with this one.

Where a device takes the steps of the recipe, they only decode images that fit the memory.

They keep the run alive: a file that crashes the image library, or keeps it busy without end, costs
its own record and a new process.
"""

import contextlib
import dataclasses
import math
import mmap
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...featstore import Status
from .images import MAX_PIXELS, Picture, Room, not_as_planned

CHUNK = 4  # images that a decoder takes at a time: few enough to share a batch among many
NICENESS = 5  # of decoders: a thread that feeds a device has the next free core
TOO_SLOW = -signal.SIGPROF  # exit code of a decoder that has used up its time

# Called with a path and, where a device takes the steps of the recipe, with `room`. It is pickled:
# a partial of a module's function.
Load = Callable[..., Picture]


class Limits(NamedTuple):
    """What a decoder process may take, beyond what it has when it starts."""

    memory: int  # bytes, in all
    seconds: float  # of processor time, for one picture; waiting for a disk is not counted

    @classmethod
    def of(cls, max_pixels: int, images: int) -> "Limits":
        """Return limits far above what any sound picture of `images` files needs.

        The largest image that is allowed takes 8 bytes a pixel and the memory of its file; in the
        slowest format it takes 20 seconds on an ordinary core (docs/recipes.md).
        """
        pixels = max(max_pixels, MAX_PIXELS)
        return cls(24 * pixels, images * max(120.0, pixels / 1.5e6))


class Chunk(NamedTuple):
    """Consecutive images of a batch, and where in the shared memory their pixels belong."""

    paths: tuple[str, ...]
    places: tuple[range, ...]  # of each image: its bytes
    shape: tuple[int, ...]  # of the pixels that the steps of the recipe give
    is_for_device: bool  # images that fit their place stay as they are decoded


class Decoded(NamedTuple):
    """The pictures of a chunk or a batch, without pixels: these are in the shared memory."""

    pictures: list[Picture]
    seconds: float  # of the decoder processes, summed


@dataclasses.dataclass(frozen=True)
class PendingBatch:
    """A batch that decoder processes are working on."""

    decoders: "Decoders"
    slot: int
    memory: np.ndarray  # (bytes,) uint8: the used part of the slot
    starts: tuple[int, ...]  # of each image, and of the padding: where its pixels begin
    shape: tuple[int, ...]  # of the pixels that the steps of the recipe give
    futures: tuple[Future[Decoded], ...]

    @property
    def pixels(self) -> np.ndarray:
        """(image, *shape) uint8, where all steps are taken: `memory` itself."""
        return self.memory.reshape(-1, *self.shape)

    def result(self) -> Decoded:
        """Wait for the pictures; pixels of those that are not ok, and of the padding, are black."""
        parts = [future.result() for future in self.futures]
        pictures = [picture for part in parts for picture in part.pictures]
        for position, start in enumerate(self.starts):
            if position >= len(pictures) or pictures[position].status != Status.OK:
                self.memory[start : start + math.prod(self.shape)] = 0
        return Decoded(pictures, sum(part.seconds for part in parts))

    def release(self) -> None:
        """Give the slot back; `memory` must not be read any more."""
        self.decoders.free.append(self.slot)


class Decoders:
    """A pool of decoder processes that share `slots` blocks of `slot_bytes` with this one.

    A thread waits for each process, and knows at which image its process died.
    """

    def __init__(self, load: Load, processes: int, slots: int, slot_bytes: int, *, limits: Limits):
        self._slot_bytes = slot_bytes
        self.free = list(range(slots))
        # Not multiprocessing's shared memory: /dev/shm has 64 MB in most containers, and what a
        # killed run leaves there stays. A memfd is limited by memory alone and ends with us.
        self._descriptor = os.memfd_create("clipfeat")
        os.ftruncate(self._descriptor, slots * slot_bytes)
        mapped = mmap.mmap(self._descriptor, slots * slot_bytes)
        self.memory = np.frombuffer(mapped, np.uint8)
        self._shared = (load, self._descriptor, slots * slot_bytes, limits)
        self._limits = limits
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(_Decoder(*self._shared))
        self._threads = ThreadPoolExecutor(processes)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()
        os.close(self._descriptor)  # the mapping ends with the last array that uses it

    def submit(
        self,
        paths: Sequence[str],
        images: int,
        shape: tuple[int, ...],
        decoded_bytes: Sequence[int] | None = None,
    ) -> PendingBatch:
        """Begin to decode `paths` into a free slot for `images` pictures of `shape`.

        Where a device takes the steps of the recipe, `decoded_bytes` has the bytes that each image
        has before them, by its manifest; as many as the slot holds come as they are decoded.
        """
        slot = self.free.pop()
        rooms = [math.prod(shape)] * images
        spare = self._slot_bytes - sum(rooms)
        for position, needed in enumerate(decoded_bytes or ()):
            more = max(0, needed - rooms[position])
            if more <= spare:
                rooms[position] += more
                spare -= more
        offset = slot * self._slot_bytes
        *starts, end = accumulate(rooms, initial=0)
        places = [range(offset + a, offset + b) for a, b in pairwise((*starts, end))]
        chunks = [
            Chunk(
                tuple(paths[first : first + CHUNK]),
                tuple(places[first : min(first + CHUNK, len(paths))]),
                shape,
                decoded_bytes is not None,
            )
            for first in range(0, len(paths), CHUNK)
        ]
        futures = tuple(self._threads.submit(self._decode, chunk) for chunk in chunks)
        memory = self.memory[offset : offset + end]
        return PendingBatch(self, slot, memory, tuple(starts), shape, futures)

    def _decode(self, chunk: Chunk) -> Decoded:
        """Have an idle process decode a chunk; where it dies, a new one continues."""
        pictures: list[Picture] = []
        seconds, retried = 0.0, -1
        while len(pictures) < len(chunk.paths):
            decoder = self._idle.get()
            try:
                for picture, elapsed in decoder.decode(chunk, len(pictures)):
                    pictures.append(picture)
                    seconds += elapsed
            except (EOFError, OSError):
                code = decoder.end()
                decoder = _Decoder(*self._shared)
                # Memory may have been short for a moment; at the second death, the file is the cause.
                if code == TOO_SLOW or retried == len(pictures):
                    pictures.append(Picture(Status.UNDECODABLE, self._why(code)))
                else:
                    retried = len(pictures)
            finally:
                self._idle.put(decoder)
        return Decoded(pictures, seconds)

    def _why(self, code: int) -> str:
        if code == TOO_SLOW:
            return f"decoding it takes more than {self._limits.seconds:.3g} s of processor time"
        return (
            f"the process that decoded it died (exit code {code}): it crashes the image library, "
            f"or memory is short"
        )


class _Decoder:
    """One decoder process: a fresh interpreter, which imports Pillow and numpy, and no torch."""

    def __init__(self, load: Load, memory: int, size: int, limits: Limits):
        parent_end, child_end = socket.socketpair()
        code = CHILD_CODE.format(socket=child_end.fileno(), memory=memory, size=size)
        # In a process group of its own, so that Ctrl-C reaches this process alone. It ends when
        # this end of the socket closes, whatever the cause.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(child_end.fileno(), memory),
            stdin=subprocess.DEVNULL,
            process_group=0,
            # numpy's algebra is not used, and would start a thread for each core.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        child_end.close()
        self._connection = Connection(parent_end.detach())
        self._connection.send(sys.path)
        self._connection.send((load, limits))

    def decode(self, chunk: Chunk, first: int) -> Iterator[tuple[Picture, float]]:
        """Yield the picture of each of a chunk's images from `first` on, and the seconds it took.

        Raises EOFError or OSError if the process dies.
        """
        self._connection.send((chunk, first))
        for _ in chunk.paths[first:]:
            yield self._connection.recv()

    def end(self) -> int:
        """End the process; return its exit code."""
        self._connection.close()
        return self._process.wait()


# What a decoder process runs. multiprocessing would import the main module again: that of a script
# may import torch, or start the extraction again.
CHILD_CODE = (
    "import sys; from multiprocessing.connection import Connection; "
    "connection = Connection({socket}); sys.path[:] = connection.recv(); "
    "from clipfeat.extract.pixels.decoding import serve; serve(connection, {memory}, {size})"
)


def serve(connection: Connection, memory: int, size: int) -> None:
    """Decode chunks into `size` bytes of the shared memory until the parent has closed its end."""
    mapped = mmap.mmap(memory, size)
    with contextlib.suppress(ImportError):  # an older Pillow without AVIF, or none: `load` says so
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for each core
    with contextlib.suppress(EOFError, OSError):
        load, limits = connection.recv()
        os.nice(NICENESS)
        _limit_memory(limits.memory)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the timer ends the process
        while True:
            chunk, first = connection.recv()
            for path, place in zip(chunk.paths[first:], chunk.places[first:], strict=True):
                started = time.perf_counter()
                target = np.frombuffer(mapped, np.uint8, len(place), place.start)
                room = {"room": Room(target, chunk.shape[:2])} if chunk.is_for_device else {}
                signal.setitimer(signal.ITIMER_PROF, limits.seconds)
                picture = _in_place(load(path, **room), target, chunk.shape)
                signal.setitimer(signal.ITIMER_PROF, 0)
                connection.send((picture, time.perf_counter() - started))


def _limit_memory(memory: int) -> None:
    """Let this process take `memory` bytes more than it has; what it shares does not count."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except OSError:
        pages = 0
    limit = pages * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _in_place(picture: Picture, target: np.ndarray, shape: tuple[int, ...]) -> Picture:
    """Return a picture without its pixels, which are now in `target`, or why they do not fit."""
    if picture.pixels is None:
        return picture
    if not picture.is_as_decoded:
        if picture.pixels.shape != shape:
            return not_as_planned(picture)
        target[: math.prod(shape)].reshape(shape)[:] = picture.pixels
    return dataclasses.replace(picture, pixels=None)
