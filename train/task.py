"""What a task brings to the training loop: data, a model, a loss and a score."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn

from ..base.errors import UsageError
from ..featstore import FeatureStore
from .batches import Numbers, Order
from .settings import LoopSettings, SplitSettings

ALIKE = 8  # images whose numbers of regions differ by less may have a batch to themselves
S = TypeVar("S", bound=LoopSettings)
M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class TensorBatch(Protocol):
    """A batch as the loop knows it: a NamedTuple of tensors."""

    def __iter__(self) -> Iterator[Any]: ...

    def _asdict(self) -> dict[str, Any]: ...


B = TypeVar("B", bound=TensorBatch)


def on_device(batch: B, device: torch.device) -> B:
    """Return a batch with its tensors on `device`; from pinned memory, without waiting."""
    return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))


@dataclass(frozen=True)
class Report:
    """How good the best checkpoint of a run is."""

    result: dict[str, Any]  # what RUN/result.json holds and the command prints
    scores: Mapping[str, Any] | None = None  # of each example, for RUN/scores.json


def unscored(settings: SplitSettings, epoch: int) -> Report:
    """Return the report of a run that holds no split out."""
    return Report({"split": "", "epoch": epoch, "blind": settings.blind})


def format_unscored(result: Mapping[str, Any]) -> str:
    """Return the result of `unscored` as a line for people, "" for a result with scores."""
    if result["split"]:
        return ""
    return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"


@runtime_checkable
class Task(Protocol[S, M]):
    """A task: all that `fit` knows of what it trains. Subclass it, and set the attributes.

    docs/own-task.md has a complete example.
    """

    name: str  # such as "vqa"
    settings: S
    accelerator: Accelerator  # where the model computes: `accelerator_on(device, settings)`
    store: FeatureStore  # a run belongs to the digest of its store
    data: Path = Path()  # the folder of the annotations
    data_files: Sequence[Path] = ()  # their sha256 are part of the run's identity
    model: M
    order: Order  # which examples there are, and of which image each is

    @abstractmethod
    def batch(self, numbers: Numbers, epoch: int) -> TensorBatch:
        """Return the examples at `numbers`, on the CPU; called in a thread.

        What is random about a batch may depend on the settings' seed, `epoch` and the example.
        """
        ...

    def fetch(self, image_ids: Sequence[str]) -> None:
        """Bring the records of images, which `batch` will read, to this machine; in a thread."""
        self.store.fetch(image_ids)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch on the device, shape ()."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return named numbers of the model now; the highest "score" is the best checkpoint.

        Without one, as where no split is held out, the last checkpoint counts as the best.
        """
        return {}

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Return how good the best checkpoint is; `model` has its weights, which are of `epoch`.

        All processes of a group call this; only the report of the first one counts.
        """
        return Report({"epoch": epoch, **self.evaluate(model)})

    def settings_record(self) -> dict[str, Any]:
        """Return the settings that identify a run, for RUN/settings.json."""
        return dataclasses.asdict(self.settings)

    def vocabulary_record(self) -> Mapping[str, Any]:
        """Return what the task learned from the texts of its training data, for RUN/vocabulary.json."""
        return {}


def require_task(task: Task[Any, Any]) -> None:
    """Raise UsageError unless a task has its attributes, and examples to train on."""
    attributes = ("name", "settings", "accelerator", "store", "model", "order")
    missing = [name for name in attributes if not hasattr(task, name)]
    if missing:
        raise UsageError(
            f"{type(task).__name__} does not set {', '.join(missing)}; docs/own-task.md says what "
            "a task sets",
            code="E-TASK-ATTRIBUTE",
        )
    if not len(task.order.image_of_example):
        raise UsageError(
            f"task {task.name!r}: its order has no example; pass data to train on",
            code="E-TASK-EXAMPLES",
        )


def require_batch(batch: object) -> TensorBatch:
    """Return what a task's `batch` returned, if it is a NamedTuple of tensors.

    Raises UsageError (E-TASK-BATCH) for anything else.
    """
    if isinstance(batch, TensorBatch) and all(isinstance(part, Tensor) for part in batch):
        return batch
    raise UsageError(
        f"a task's batch must return a NamedTuple of tensors; got {batch!r:.80}",
        code="E-TASK-BATCH",
    )


def require_loss(loss: object) -> Tensor:
    """Return what a task's `loss` returned, if a model can be trained with it.

    Raises UsageError (E-TASK-LOSS) for anything but a tensor of shape () that has a gradient.
    """
    if isinstance(loss, Tensor) and loss.shape == () and loss.requires_grad:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r:.80}"
    raise UsageError(
        "a task's loss must be a tensor of shape () that is computed from the model's outputs; "
        f"got {got}",
        code="E-TASK-LOSS",
    )


def require_scores(scores: object) -> Mapping[str, float]:
    """Return what a task's `evaluate` returned, if it can be recorded and compared.

    Raises UsageError (E-TASK-SCORES) for anything but Python's numbers, or groups of them, by name,
    and for a "score" that is not finite.
    """
    if isinstance(scores, Mapping) and all(
        isinstance(value, (int, float, Mapping)) for value in scores.values()
    ):
        score = scores.get("score", 0.0)
        if isinstance(score, (int, float)) and math.isfinite(score):
            return scores
    raise UsageError(
        "a task's evaluate must return numbers by name, and a finite one as score; got "
        f"{scores!r:.200}; for a tensor, call .item()",
        code="E-TASK-SCORES",
    )


def make_order(
    image_of_text: Int[np.ndarray, " text"],
    image_ids: Sequence[str],
    store: FeatureStore,
    settings: LoopSettings,
) -> Order:
    """Return the order of texts about images of a store, as the settings define it."""
    shapes = None
    if settings.bucket_by_grid_shape:
        sizes = store.shapes(list(image_ids))
        if store.identity.regions:  # up to a hundred shapes: those that are nearly the same are one
            sizes = -(-sizes // ALIKE)
        _, shapes = np.unique(sizes, axis=0, return_inverse=True)
    return Order(
        image_of_text,
        max_per_image=settings.max_texts_per_image,
        shape_of_image=shapes,
        shard_of_image=store.shard_numbers(image_ids),
        image_ids=image_ids,
    )


def require_apart(
    settings: SplitSettings, trained_on: Collection[Any], held_out: Collection[Any], *, of: str
) -> None:
    """Raise UsageError where the split that scores the model shares examples with training.

    CLIP-ViL's MCAN was validated on questions that it was trained on.
    """
    shared = set(trained_on).intersection(held_out)
    if shared:
        raise UsageError(
            f"eval_split {settings.eval_split} shares {len(shared):,} {of} with train_split "
            f"{settings.train_split}, so its score would not be one on unseen examples; "
            'pass --set eval_split="" to train without one',
            code="E-SPLIT-SHARED",
        )
