"""Write one part of a store, while other processes, on any host, write the others."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..errors import StoreError
from ..format import Identity
from ..layout import Layout
from ..store import FeatureStore
from .part import Part
from .run import Run
from .run_writer import RunWriter
from .tidy import finish_tidying


class PartWriter(RunWriter):
    """The one writer of a part of a store; what is already down from an earlier run is kept.

    Used as a StoreWriter is, but without an end: `finish_store` makes a store of the shards
    once all parts are down. Parts begin in any order, at the same time too. The first writes
    the plan and the others must have the same. A part removes nothing but files in the making
    of its own shards, which nobody else writes: another run of it is excluded by its lock.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        layout: Layout,
        part: Part,
        *,
        parent: FeatureStore | None = None,
        break_lock: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        run = Run(path, identity, layout, parent)
        super().__init__(run, part, break_lock=break_lock, say=say)
        self._numbers = part.shards(len(layout.shards))
        self.shards = layout.shards[self._numbers.start : self._numbers.stop]

    def _begin(self) -> None:
        """Agree on the plan with the other parts."""
        run, journal = self._run, self._run.journal
        if run.is_overtaken():
            self._lock.release()
            with contextlib.suppress(StoreError, OSError):  # other parts may be as late
                finish_tidying(FeatureStore.open(run.path))
            raise run.overtaken()
        run.check_places()
        plan = run.plan()
        stored = journal.settle_plan(plan)
        if stored["parent"] != plan["parent"]:
            raise StoreError(
                f"{run.path}: its journal was left by a run that was killed just after it had "
                f"finished the store; type: clipfeat store finish {run.path}"
            )
        run.check_plan(stored, plan)
        self._clear_temporaries()
        run.make_folders()

    def _clear_temporaries(self) -> None:
        self._run.journal.clear_temporaries(self._numbers)
