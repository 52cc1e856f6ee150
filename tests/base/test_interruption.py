"""What waits when Ctrl-C comes ends; what begins later does not."""

import threading
import time

import pytest

from clipfeat.base.interruption import Interruption, Stopped, interrupt
from clipfeat.featstore.reading import ThreadsOfObject

LONG = 600.0  # seconds


def test_an_interruption_ends_the_waits_that_have_begun_and_no_later_ones():
    waiting = [Interruption() for _ in range(3)]
    ended: list[Interruption] = []

    def wait(interruption: Interruption) -> None:
        with pytest.raises(Stopped):
            interruption.pause(LONG)
        ended.append(interruption)

    threads = [threading.Thread(target=wait, args=(each,)) for each in waiting]
    for thread in threads:
        thread.start()
    interrupt()
    for thread in threads:
        thread.join(timeout=60)
    assert len(ended) == 3
    later = Interruption()
    later.check()
    later.pause(0.01)


def test_calls_that_have_not_begun_end_with_the_others():
    """Also in a thread, which gets no KeyboardInterrupt, and sees the first call end last."""
    second_began, second_ended = threading.Event(), threading.Event()
    begun: list[str] = []

    def act(name: str) -> None:
        begun.append(name)
        if name == "first":
            second_ended.wait()
            time.sleep(0.2)  # the thread of the second would take the third now
        elif name == "second":
            interruption = Interruption()
            second_began.set()
            try:
                interruption.pause(LONG)
            finally:
                second_ended.set()

    def run() -> None:
        with pytest.raises(Stopped):
            ThreadsOfObject(lambda: 2).run(act, ["first", "second", "third"])
        begun.append("end")

    thread = threading.Thread(target=run)
    thread.start()
    second_began.wait()
    interrupt()
    thread.join(timeout=60)
    assert sorted(begun) == ["end", "first", "second"]


def test_ctrl_c_in_a_read_ends_what_its_threads_wait_for():
    """A notebook has no handler of ours: the read itself must tell its threads."""
    begun, ended = threading.Event(), threading.Event()

    def act(who: str) -> None:
        if who == "user":  # the error of a call is raised where the calls are waited for
            begun.wait()
            raise KeyboardInterrupt
        interruption = Interruption()
        begun.set()
        with pytest.raises(Stopped):
            interruption.pause(LONG)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        ThreadsOfObject(lambda: 2).run(act, ["user", "thread"])
    assert ended.is_set()
