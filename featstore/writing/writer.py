"""Write a store: begin or resume it, write its shards in any order anywhere, finish it."""

from collections.abc import Callable
from pathlib import Path

from ...base.files import remove_temporaries
from ..format import Identity
from ..layout import Layout
from ..store import FeatureStore
from .finish import finish
from .run import Run
from .run_writer import RunWriter
from .tidy import discard, tidy


class StoreWriter(RunWriter):
    """The one writer of a store; what is already down from an earlier run is kept.

    Use as a context manager, which holds the store's lock::

        with StoreWriter(path, identity, layout) as writer:
            for shard in writer.pending:
                with ShardTransaction(
                    path, identity, layout.shard_records, shard, libraries
                ) as files:
                    ...  # append each record, then commit
            writer.finish()

    With a `parent`, the finished store at `path`, the shards are added to it. Until `finish`
    has written store.json its readers see the parent, from then on the new store.

    Memory: the ids of the layout, and while finishing 32 bytes for each id and the rows of one
    row group. Nothing of the features is held.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        layout: Layout,
        *,
        parent: FeatureStore | None = None,
        break_lock: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        run = Run(path, identity, layout, parent)
        super().__init__(run, None, break_lock=break_lock, say=say)
        self.shards = layout.shards

    def _begin(self) -> None:
        """Write the plan, or check that the one that is there is this one."""
        run, journal = self._run, self._run.journal
        if run.is_overtaken():
            tidy(run.path)
            raise run.overtaken()
        plan, stored = run.plan(), journal.plan()
        if stored is None or stored["parent"] != plan["parent"]:
            journal.clear()  # of a run that was killed after its last step but one
        else:
            run.check_plan(stored, plan)
        run.check_places()
        remove_temporaries(run.path)
        self._clear_temporaries()
        journal.write_plan(plan)
        run.make_folders()

    def _clear_temporaries(self) -> None:
        self._run.journal.clear_temporaries()

    def is_in_vain(self) -> bool:
        """Return whether all is down and not one record came of it."""
        return self._run.is_in_vain()

    def discard(self) -> None:
        """Undo the run: remove the beginning of a store, or what was added to a finished one."""
        discard(self._run)

    def finish(self) -> FeatureStore:
        """Write the tables and, last, store.json; remove the journal.

        Raises StoreError if a shard is still missing, or if the lock was broken by another
        process.
        """
        return finish(self._run, self._lock)
