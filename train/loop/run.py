"""Open a run's folder to train in it, once however many processes there are."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..runs.folder import (
    VOCABULARY,
    RunCard,
    data_digests,
    locked,
    require_same_run,
    write_card,
)
from ..runs.jsonfile import write_json
from ..settings import LoopSettings


@runtime_checkable
class Vocabulary(Protocol):
    """What a task read off its training data."""

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it."""
        ...


def make_card(
    task: str, settings: LoopSettings, *, store: FeatureStore, data: Path, files: Sequence[Path]
) -> RunCard:
    """Return what makes a run the run it is; with other contents of `files` it would be another."""
    return RunCard(
        task=task,
        settings=dataclasses.asdict(settings),
        store_digest=store.digest,
        features=features_of(store),
        data_files=data_digests(tuple(dict.fromkeys(files))),
        store=str(store.path.resolve()),
        data=str(data.resolve()),
    )


def features_of(store: FeatureStore) -> dict[str, object]:
    """Return what made the grids of a store; vectors beside them do not count."""
    identity = store.identity.to_json()
    recipe = {key: value for key, value in identity["recipe"].items() if key != "vector"}
    return {"backbone": identity["backbone"], "recipe": recipe, "dim": identity["dim"]}


def require_features(store: FeatureStore, card: RunCard) -> None:
    """Raise UsageError unless the features of a store are made as those that a run learned from.

    The images may be others, as those of a test split are.
    """
    for part, ours in features_of(store).items():
        theirs = card.features.get(part)
        if theirs != ours:
            raise UsageError(
                f"the run was trained on features whose {part} is {theirs!r}, and that of "
                f"{store.path} is {ours!r}; extract these images as those of {card.store} were"
            )


@contextlib.contextmanager
def open_run(
    folder: Path, card: RunCard, vocabulary: Vocabulary, accelerator: Accelerator
) -> Iterator[None]:
    """Make the run's folder, or go on with the one there is; nobody else trains in it meanwhile.

    Raises UsageError where it holds another run, or another process is training it.
    """
    with contextlib.ExitStack() as held:
        with accelerator.main_process_first():
            require_same_run(folder, card)
            if accelerator.is_main_process:
                held.enter_context(locked(folder))
                write_card(folder, card)
                write_json(folder / VOCABULARY, vocabulary.record())
        yield
