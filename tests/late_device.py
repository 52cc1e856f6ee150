"""A stand-in for a GPU that does all its work as late as it may: when somebody waits for it.

Streams are queues of what torch was asked to do while they were the current one. Until an event is
waited for, nothing before it is done, and its tensors hold garbage.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

GARBAGE = 0x41  # the byte that memory is full of before it is written: a number in every dtype


class Stream:
    def __init__(self, *_: Any):
        self.queue: deque[Callable[[], Any]] = deque()

    def wait_event(self, event: "Event") -> None:
        self.queue.append(event.finish)


class Event:
    def __init__(self, **_: Any):
        self.stream: Stream | None = None
        self.is_done = False

    def record(self, stream: Stream) -> None:
        self.stream = stream
        stream.queue.append(self._mark)

    def _mark(self) -> None:
        self.is_done = True

    def finish(self) -> None:
        """Do what stands before this event, and before those that its stream waits for."""
        while not self.is_done:
            assert self.stream is not None
            self.stream.queue.popleft()()

    def elapsed_time(self, _: "Event") -> float:
        return 0.0


class LateDevice(TorchDispatchMode):
    """Takes the place of `torch.cuda` in a `with` block, for the thread that enters it.

    `before_waiting` is called before the host gets what it waits for.
    """

    def __init__(self, monkeypatch: Any, before_waiting: Callable[[], None]):
        super().__init__()
        self._current, self._lock = Stream(), threading.Lock()
        cuda: Any = torch.cuda

        def synchronize(event: Event) -> None:
            before_waiting()
            with self._lock:
                event.finish()

        for name, value in {
            "Stream": Stream,
            "Event": type("HostEvent", (Event,), {"synchronize": synchronize}),
            "current_stream": lambda _: self._current,
            "stream": self._stream,
            "_lazy_init": lambda: None,
        }.items():
            monkeypatch.setattr(cuda, name, value)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)

    def _stream(self, stream: Stream) -> "_Current":
        return _Current(self, stream)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        args, kwargs = tree_map(_on_host, (args, kwargs or {}))
        kwargs.pop("pin_memory", None)

        def run() -> Any:
            return function(*args, **kwargs)

        if function._schema.is_mutable:
            self._enqueue(run)
            return kwargs.get("out", args[0])
        result = run()  # for its shape and its memory; its numbers come later
        if not _is_new(result, args):
            return result
        result.untyped_storage().fill_(GARBAGE)
        self._enqueue(lambda: result.copy_(run()))
        return result

    def _enqueue(self, run: Callable[[], Any]) -> None:
        with self._lock:
            self._current.queue.append(run)


class _Current:
    """A block in which a stream is the current one."""

    def __init__(self, device: LateDevice, stream: Stream):
        self._device, self._stream = device, stream

    def __enter__(self) -> None:
        self._before, self._device._current = self._device._current, self._stream

    def __exit__(self, *_: Any) -> None:
        self._device._current = self._before


def _on_host(value: Any) -> Any:
    is_gpu = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if is_gpu else value


def _is_new(result: Any, args: Any) -> bool:
    """Return whether a result is a tensor with memory of its own, and no view of an argument."""
    if not isinstance(result, torch.Tensor):
        return False
    places = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
    return result.untyped_storage().data_ptr() not in places
