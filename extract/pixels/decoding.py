"""Processes that read, decode and resize images beside the device, into memory they share with it.

A process apart survives what kills a decoder: a file that crashes the image library, or keeps it
busy without end, costs its own record and a new process, not the run.
"""

import contextlib
import dataclasses
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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...featstore import Status
from .images import MAX_PIXELS, Picture, not_as_planned

CHUNK = 4  # images that a decoder takes at a time: few enough to share a batch among many
TOO_SLOW = -signal.SIGPROF  # exit code of a decoder that has used up its time

Load = Callable[[str], Picture]  # must travel to other processes: a partial of a module's function


class Limits(NamedTuple):
    """What a decoder process may take, beyond what it has when it starts."""

    memory: int  # bytes, in all
    seconds: float  # of processor time, for one picture; waiting for a disk is not counted

    @classmethod
    def of(cls, max_pixels: int, images: int) -> "Limits":
        """Return limits that no sound picture of `images` files comes near.

        The largest image that is allowed takes 8 bytes a pixel and its file beside them; in the
        slowest format it takes 20 seconds on an ordinary core (docs/recipes.md).
        """
        pixels = max(max_pixels, MAX_PIXELS)
        return cls(24 * pixels, images * max(120.0, pixels / 1.5e6))


class Chunk(NamedTuple):
    """Consecutive images of a batch, and where in the shared memory their pixels belong."""

    paths: tuple[str, ...]
    offset: int  # bytes
    shape: tuple[int, ...]  # of the pixels of each


class Decoded(NamedTuple):
    """What came of a chunk: pictures without pixels, which lie in the shared memory.

    JPEG files that the device is to decode come in their pictures; their places hold anything.
    """

    pictures: list[Picture]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A batch in the making."""

    decoders: "Decoders"
    slot: int
    pixels: np.ndarray  # (image, *shape) uint8: the slot itself, black where there is no picture
    futures: tuple[Future[Decoded], ...]

    def result(self) -> Decoded:
        """Wait for the pictures; those that are not ok stay black."""
        parts = [future.result() for future in self.futures]
        pictures = [picture for part in parts for picture in part.pictures]
        for position, picture in enumerate(pictures):
            if picture.status != Status.OK:
                self.pixels[position] = 0
        self.pixels[len(pictures) :] = 0
        return Decoded(pictures, sum(part.seconds for part in parts))

    def release(self) -> None:
        """Give the slot back; `pixels` must not be read any more."""
        self.decoders.free.append(self.slot)


class Decoders:
    """A pool of decoder processes that share `slots` pieces of `slot_bytes` with this one.

    A thread waits for each process: it knows which image its process died over.
    """

    def __init__(self, load: Load, processes: int, slots: int, slot_bytes: int, *, limits: Limits):
        self._slot_bytes = slot_bytes
        self.free = list(range(slots))
        # Not multiprocessing's shared memory: /dev/shm has 64 MB in most containers, and what
        # a killed run leaves there stays. A memfd is bound by memory alone and ends with us.
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
        os.close(self._descriptor)  # the mapping goes with the last array that looks into it

    def submit(self, paths: Sequence[str], images: int, shape: tuple[int, ...]) -> Decoding:
        """Begin to decode `paths` into a free slot for `images` pictures of `shape`."""
        slot = self.free.pop()
        start, each = slot * self._slot_bytes, int(np.prod(shape))
        chunks = [
            Chunk(tuple(paths[first : first + CHUNK]), start + first * each, shape)
            for first in range(0, len(paths), CHUNK)
        ]
        futures = tuple(self._threads.submit(self._decode, chunk) for chunk in chunks)
        pixels = self.memory[start : start + images * each].reshape(images, *shape)
        return Decoding(self, slot, pixels, futures)

    def _decode(self, chunk: Chunk) -> Decoded:
        """Have idle processes decode a chunk: a new one goes on where one has died."""
        pictures: list[Picture] = []
        seconds, tried = 0.0, -1
        while len(pictures) < len(chunk.paths):
            decoder = self._idle.get()
            try:
                for picture, took in decoder.decode(chunk, len(pictures)):
                    pictures.append(picture)
                    seconds += took
            except (EOFError, OSError):
                code = decoder.end()
                decoder = _Decoder(*self._shared)
                # Memory may have been short for the moment: a second time, it is the file.
                if code == TOO_SLOW or tried == len(pictures):
                    pictures.append(Picture(Status.UNDECODABLE, self._why(code), 0, 0, ""))
                else:
                    tried = len(pictures)
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
        ours, theirs = socket.socketpair()
        code = START.format(socket=theirs.fileno(), memory=memory, size=size)
        # A group of its own: Ctrl-C is for us alone. It ends when our end of the socket does,
        # however that comes about.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(), memory),
            stdin=subprocess.DEVNULL,
            process_group=0,
            # numpy's algebra is not used, and would start a thread for each core.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._connection.send(sys.path)
        self._connection.send((load, limits))

    def decode(self, chunk: Chunk, first: int) -> Iterator[tuple[Picture, float]]:
        """Yield what comes of a chunk's images from `first` on, and the seconds it took.

        Raises EOFError or OSError if the process dies.
        """
        self._connection.send((chunk, first))
        for _ in chunk.paths[first:]:
            yield self._connection.recv()

    def end(self) -> int:
        """Let the process go; return its exit code."""
        self._connection.close()
        return self._process.wait()


# What a decoder process runs. Not multiprocessing's way, which imports the main module again: that
# of a script may import torch, or start the extraction anew.
START = (
    "import sys; from multiprocessing.connection import Connection; "
    "connection = Connection({socket}); sys.path[:] = connection.recv(); "
    "from clipfeat.extract.pixels.decoding import serve; serve(connection, {memory}, {size})"
)


def serve(connection: Connection, memory: int, size: int) -> None:
    """Decode chunks into `size` bytes of the shared memory until the other side is gone."""
    mapped = mmap.mmap(memory, size)
    with contextlib.suppress(EOFError, OSError):
        load, limits = connection.recv()
        _limit_memory(limits.memory)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the timer ends the process
        while True:
            chunk, first = connection.recv()
            places = np.ndarray((len(chunk.paths), *chunk.shape), np.uint8, mapped, chunk.offset)
            for path, place in zip(chunk.paths[first:], places[first:], strict=True):
                started = time.perf_counter()
                signal.setitimer(signal.ITIMER_PROF, limits.seconds)
                picture = _placed(load(path), place)
                signal.setitimer(signal.ITIMER_PROF, 0)
                connection.send((picture, time.perf_counter() - started))


def _limit_memory(memory: int) -> None:
    """Let this process have so many bytes more of its own; what it shares does not count."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except OSError:
        pages = 0
    limit = pages * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _placed(picture: Picture, place: np.ndarray) -> Picture:
    """Return the picture without its pixels, which now lie in `place`, or why they do not fit."""
    if picture.pixels is None:
        return picture
    if picture.pixels.shape != place.shape:
        return not_as_planned(picture)
    place[:] = picture.pixels
    return dataclasses.replace(picture, pixels=None)
