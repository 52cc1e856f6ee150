"""The captioning task: two stages on the grids of a store, and what each of them learns from."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from ....featstore import FeatureStore
from ...batches import Numbers
from ...data.caption_vocabulary import CaptionVocabulary, build_bpe, build_caption_words
from ...data.captions import CaptionSplit, read_captions
from ...devices import MODEL_SIZE_REMEDY, accelerator_on, memory_errors, seeded
from ...engine import fit
from ...metrics import ONE_IMAGE
from ...metrics.cider import TextCider
from ...models.captioner import Captioner
from ...normalize import FeatureNorm, feature_statistics, with_chosen_norm
from ...records import RecordReader
from ...run import BEST, SETTINGS, RunManifest, as_in_run, require_same_run
from ...stages import (
    StageTimes,
    log_unfinished,
    require_earlier_stage,
    require_folder_of_stages,
)
from ...task import Report, Task, make_order, require_apart
from ..settings import SCST, STAGES, XE, CaptionSettings
from .evaluation import format_result, score_captions
from .examples import (
    CaptionBatch,
    CaptionExamples,
    EvalSplit,
    ImageBatch,
    encode,
    read_batch,
    read_images,
)
from .losses import SelfCritical, caption_loss
from .model import TASK, TrainedCaptioner, load_stage, make_model, write_captions
from .start import add_words, find_start, start_model

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class CaptionData:
    """What both stages learn from and, if there is one, the split that scores the model."""

    store: FeatureStore
    folder: Path
    files: tuple[Path, ...]  # with other contents, a run is another run
    vocabulary: CaptionVocabulary
    examples: CaptionExamples
    eval_split: EvalSplit | None
    start: TrainedCaptioner | None  # the run that the first stage starts from

    @property
    def image_ids(self) -> set[str]:
        """The store's ids of all images."""
        held_out = self.eval_split.examples.image_ids if self.eval_split else ()
        return {*self.examples.image_ids, *held_out}


def read_data(
    settings: CaptionSettings,
    store: FeatureStore,
    folder: Path,
    start: TrainedCaptioner | None = None,
) -> CaptionData:
    """Return the splits that the settings name; raises as `read_captions` and `encode` do.

    With `start`, the run to start from, its words come first.
    """
    split = read_captions(settings.dataset, folder, settings.train_split, training=True)
    held_out = _read_held_out(settings, folder, split)
    if start is not None:
        vocabulary = add_words(start.vocabulary, split.texts, min_count=settings.min_count)
    elif settings.bpe:
        vocabulary = build_bpe(split.texts, size=settings.bpe)
    else:
        vocabulary = build_caption_words(split.texts, min_count=settings.min_count)
    starts = () if start is None else (start.folder / BEST,)
    limits = {"max_tokens": settings.max_tokens, "skip_missing": settings.skip_missing}
    return CaptionData(
        store=store,
        folder=folder,
        files=(*split.files, *(held_out.files if held_out else ()), *starts),
        vocabulary=vocabulary,
        examples=encode(split, vocabulary, store, **limits),
        eval_split=(
            EvalSplit(held_out, encode(held_out, vocabulary, store, **limits)) if held_out else None
        ),
        start=start,
    )


def _read_held_out(
    settings: CaptionSettings, folder: Path, split: CaptionSplit
) -> CaptionSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    held_out = read_captions(settings.dataset, folder, settings.eval_split, training=False)
    trained_on, scored = ({image.image_id for image in s.images} for s in (split, held_out))
    require_apart(settings, trained_on, scored, of="images")
    if len(scored) == 1:
        logger.warning(
            f"eval_split {settings.eval_split} has one image: its CIDEr-D, which picks the best "
            f"checkpoint, is {ONE_IMAGE}",
        )
    return held_out


class CaptioningTask(Task[CaptionSettings, Captioner]):
    """A stage of captioning: the two differ in their examples, their loss and their start."""

    name = TASK

    def __init__(
        self,
        settings: CaptionSettings,
        data: CaptionData,
        vocabulary: CaptionVocabulary,
        accelerator: Accelerator,
    ):
        """Read records into the cache that the settings ask for; the model is not made here."""
        self.settings, self.accelerator, self.vocabulary = settings, accelerator, vocabulary
        self.store, self.data, self.data_files = data.store, data.folder, data.files
        self.examples, self.eval_split = data.examples, data.eval_split
        self.reader = RecordReader(data.store, accelerator.device, settings.cache)
        self.reader.require_room(data.image_ids, processes=accelerator.num_processes)

    def fetch(self, image_ids: Sequence[str]) -> None:
        """Bring the records of images to this machine, unless they are kept in memory."""
        self.reader.fetch(image_ids)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return 100 times the CIDEr-D of the held-out images' captions."""
        if self.eval_split is None:
            return {}
        return {"score": self.eval_split.score(self._captions(model, self.eval_split))}

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Caption the held-out images, write the captions into the run and score them."""
        blind = self.settings.blind
        if self.eval_split is None:
            return Report({"split": "", "stage": run.name, "epoch": epoch, "blind": blind})
        captions = self.eval_split.complete(self._captions(model, self.eval_split))
        if not self.accelerator.is_main_process:
            return Report({})
        path = run / PREDICTIONS
        result = score_captions(
            self.eval_split, captions, path, self.settings, stage=run.name, epoch=epoch
        )
        return Report(result, self.eval_split.score_table(captions))

    def _captions(self, model: nn.Module, split: EvalSplit) -> dict[int | str, str]:
        return write_captions(
            model, self.reader, split.examples, self.vocabulary, self.settings, self.accelerator
        )

    def vocabulary_record(self) -> Mapping[str, Any]:
        """Return the words, or parts of words."""
        return self.vocabulary.record()


class CrossEntropyTask(CaptioningTask):
    """The first stage: captions that people wrote; an example is a caption."""

    def __init__(self, settings: CaptionSettings, data: CaptionData, accelerator: Accelerator):
        """Make the model that training begins with, the same one every time."""
        super().__init__(settings, data, data.vocabulary, accelerator)
        examples = data.examples
        with memory_errors(MODEL_SIZE_REMEDY):
            self.model = _first_model(settings, data)
        self.settings = with_chosen_norm(settings, self.model)
        self.order = make_order(examples.image_of_caption, examples.image_ids, data.store, settings)

    def batch(self, numbers: Numbers, epoch: int) -> CaptionBatch:
        """Return the captions at `numbers`, with the grids of their images."""
        return read_batch(self.reader, self.examples, numbers)

    def loss(self, model: nn.Module, batch: CaptionBatch) -> Tensor:
        """Return the mean cross-entropy of the words, shape ()."""
        return caption_loss(model, batch, smoothing=self.settings.label_smoothing)

    def settings_record(self) -> dict[str, Any]:
        """Return the settings without those of the second stage."""
        return cross_entropy_record(self.settings)


def _first_model(settings: CaptionSettings, data: CaptionData) -> Captioner:
    """Return the model of the run to start from, or a new one."""
    if data.start is not None:
        return start_model(data.start, settings, data.vocabulary)
    statistics = feature_statistics(
        data.store,
        data.examples.image_ids,
        **settings.of_norm(),
        seed=settings.seed,
    )
    regions = bool(data.store.identity.regions)
    norm = FeatureNorm(statistics, blind=settings.blind, regions=regions)
    with seeded(settings.seed):
        return make_model(settings, norm, data.vocabulary)


class SelfCriticalTask(CaptioningTask):
    """The second stage: the model's own captions, from the first one's model on.

    An example is an image.
    """

    def __init__(
        self,
        settings: CaptionSettings,
        data: CaptionData,
        accelerator: Accelerator,
        first: TrainedCaptioner,
    ):
        """Take over the model of the first stage."""
        settings = with_chosen_norm(settings.self_critical, first.model)
        examples = data.examples
        super().__init__(settings, data, first.vocabulary, accelerator)
        self.data_files = (*data.files, first.folder / BEST)
        cider = TextCider(examples.texts, end_is_word=True)
        self.critic = SelfCritical(cider, first.vocabulary, settings, accelerator)
        self.model = first.model
        images = np.arange(len(examples.ids))
        self.order = make_order(images, examples.image_ids, data.store, settings)

    def batch(self, numbers: Numbers, epoch: int) -> ImageBatch:
        """Return the grids of the images at `numbers`."""
        return read_images(self.reader, self.examples.image_ids, numbers)

    def loss(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Return the loss of self-critical sequence training, shape ()."""
        return self.critic.loss(model, batch)


def cross_entropy_record(settings: CaptionSettings) -> dict[str, Any]:
    """Return the settings that make a first stage the run it is: not those of the second."""
    record = dataclasses.asdict(settings)
    del record[SCST]
    return record


def train_stages(
    settings: CaptionSettings,
    out: Path,
    *,
    stages: Sequence[str],
    store: str | Path,
    data: Path,
    device: str | None = None,
) -> tuple[dict[str, Any], StageTimes]:
    """Train the named stages; return {stage: the best checkpoint's scores}, and the times.

    A run that was killed resumes from its last checkpoint, in whichever stage that is. `out` then
    holds a folder for each stage, with what `clipfeat.train.run` lists. Raises UsageError
    before any work, StoreError for a store that cannot be read, ClipfeatError for data that do
    not fit it.
    """
    require_folder_of_stages(out, STAGES, of="captioning")
    if XE not in stages:
        require_earlier_stage(out, XE, of=SCST, remedy=f"{XE},{SCST}")
    features = FeatureStore.open(store)
    settings, start = find_start(settings, features)
    read = read_data(settings, features, data, start)
    # A second stage belongs to the first one as it is, which then cannot be extended.
    if XE not in stages or (SCST in stages and (out / SCST / SETTINGS).is_file()):
        record = cross_entropy_record(as_in_run(settings, out / XE))
        manifest = RunManifest.of(TASK, record, store=features, data=data, files=read.files)
        require_same_run(out / XE, manifest)
    results: dict[str, Any] = {}
    times = StageTimes()
    for stage in stages:
        of_stage = as_in_run(settings, out / stage)
        accelerator = accelerator_on(device, of_stage)
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
        if stage == XE:
            task = CrossEntropyTask(of_stage, read, accelerator)
        else:
            first = load_stage(out / XE)
            log_unfinished(accelerator, first.folder, first.epoch, of=SCST)
            task = SelfCriticalTask(of_stage, read, accelerator, first)
        results[stage], times[stage] = fit(task, out / stage)
    return results, times


def format_stages(results: Mapping[str, Any]) -> str:
    """Return the results of stages as lines for people."""
    return "\n\n".join(format_result(result) for result in results.values())
