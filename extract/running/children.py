"""How a process behaves that another one has started to work for it."""

import multiprocessing as mp
import os
import signal
import threading


def become_a_child() -> None:
    """Leave Ctrl-C to the parent, which ends its children, and end when it is gone.

    A parent that is killed cannot end anybody; a child that went on would write beside a new run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
