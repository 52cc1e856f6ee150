"""Processes that read, decode and resize images beside the device, into memory they share with it.

A process apart survives what kills a decoder: a file that crashes the image library costs its own
record and a new process, not the run.
"""

import contextlib
import dataclasses
import mmap
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from ...featstore import Status
from .images import Picture, not_as_planned

CHUNK = 4  # images that a decoder takes at a time: few enough to share a batch among many

Load = Callable[[str], Picture]  # must travel to other processes: a partial of a module's function


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

    A thread waits for each process: it knows which chunk its process died over.
    """

    def __init__(self, load: Load, processes: int, slots: int, slot_bytes: int):
        self._slot_bytes = slot_bytes
        self.free = list(range(slots))
        # Not multiprocessing's shared memory: /dev/shm has 64 MB in most containers, and what
        # a killed run leaves there stays. A memfd is bound by memory alone and ends with us.
        self._descriptor = os.memfd_create("clipfeat")
        os.ftruncate(self._descriptor, slots * slot_bytes)
        mapped = mmap.mmap(self._descriptor, slots * slot_bytes)
        self.memory = np.frombuffer(mapped, np.uint8)
        self._shared = (load, self._descriptor, slots * slot_bytes)
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
        """Have an idle process decode a chunk, image by image where a process dies over it."""
        decoder = self._idle.get()
        try:
            return decoder.decode(chunk)
        except (EOFError, OSError):
            code = decoder.end()
            decoder = _Decoder(*self._shared)
        finally:
            self._idle.put(decoder)
        if len(chunk.paths) == 1:
            reason = (
                f"the process that decoded it died (exit code {code}): it crashes the image "
                f"library, or memory is short"
            )
            return Decoded([Picture(Status.UNDECODABLE, reason, 0, 0, "")], 0.0)
        parts = [self._decode(single) for single in _singles(chunk)]
        pictures = [picture for part in parts for picture in part.pictures]
        return Decoded(pictures, sum(part.seconds for part in parts))


def _singles(chunk: Chunk) -> Iterator[Chunk]:
    each = int(np.prod(chunk.shape))
    for position, path in enumerate(chunk.paths):
        yield Chunk((path,), chunk.offset + position * each, chunk.shape)


class _Decoder:
    """One decoder process: a fresh interpreter, which imports Pillow and numpy, and no torch."""

    def __init__(self, load: Load, memory: int, size: int):
        ours, theirs = socket.socketpair()
        code = START.format(socket=theirs.fileno(), memory=memory, size=size)
        # A group of its own: Ctrl-C is for us alone. It ends when our end of the socket does,
        # however that comes about.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(), memory),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._connection.send(sys.path)
        self._connection.send(load)

    def decode(self, chunk: Chunk) -> Decoded:
        """Return what came of a chunk; raises EOFError or OSError if the process dies over it."""
        self._connection.send(chunk)
        return self._connection.recv()

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
        load: Load = connection.recv()
        while True:
            chunk: Chunk = connection.recv()
            started = time.perf_counter()
            target = np.ndarray((len(chunk.paths), *chunk.shape), np.uint8, mapped, chunk.offset)
            pictures = [
                _placed(load(path), pixels)
                for path, pixels in zip(chunk.paths, target, strict=True)
            ]
            connection.send(Decoded(pictures, time.perf_counter() - started))


def _placed(picture: Picture, place: np.ndarray) -> Picture:
    """Return the picture without its pixels, which now lie in `place`, or why they do not fit."""
    if picture.pixels is None:
        return picture
    if picture.pixels.shape != place.shape:
        return not_as_planned(picture)
    place[:] = picture.pixels
    return dataclasses.replace(picture, pixels=None)
