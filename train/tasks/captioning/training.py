"""What a captioner learns from: captions that people wrote, and its own."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ....base.errors import UsageError
from ....featstore import FeatureStore
from ...batches import Numbers, Order
from ...data.caption_vocabulary import END, CaptionVocabulary, build_bpe, build_caption_words
from ...data.captions import CaptionSplit, read_captions
from ...data.vocabulary import PADDING
from ...devices import accelerator_on, memory_errors
from ...engine import make_card, open_run, say_once, train
from ...log import LoopTimes
from ...metrics import ONE_IMAGE
from ...metrics.cider import TextCider
from ...models.captioner import Captioner
from ...models.decoding import Captions, greedy, of_tokens, sample
from ...records import RecordReader, channel_statistics
from ...run import BEST, RESULT, RunCard, require_no_link, require_same_run
from ..answering import make_order, require_apart, write_results
from ..settings import SCST, STAGES, XE, CaptionSettings
from .evaluation import caption_split, describe
from .examples import (
    Asked,
    CaptionBatch,
    CaptionExamples,
    ImageBatch,
    encode,
    read_batch,
    read_images,
)
from .model import TASK, TrainedCaptioner, load_stage, make_model, write_captions

logger = logging.getLogger(__name__)

LARGEST_SEED = 1 << 62


def caption_loss(model: nn.Module, batch: CaptionBatch, *, smoothing: float) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy of the words that people wrote, the ends among them."""
    tokens = batch.tokens
    logits = model(
        batch.features, batch.mask, batch.grid_shapes, batch.image_of_caption, tokens[:, :-1]
    )
    return cross_entropy(
        logits.float().transpose(1, 2),
        tokens[:, 1:],
        ignore_index=PADDING,
        label_smoothing=smoothing,
    )


@dataclass(frozen=True)
class SelfCritical:
    """The loss of self-critical sequence training (Rennie et al. 2017, section 3).

    A model's own captions, drawn by chance, become likelier where CIDEr-D finds them better than
    the baseline, and less likely where worse. Captions are drawn and scored without dropout, so
    that the gradient is that of the expected reward of the very model that will be used.
    """

    cider: TextCider  # of the training images, by the positions that batches have
    vocabulary: CaptionVocabulary
    settings: CaptionSettings
    accelerator: Accelerator

    def loss_of(self, model: nn.Module, batch: ImageBatch) -> Float32[Tensor, ""]:
        """Return the mean over words of minus log-probability times advantage.

        Random numbers come from torch's, which the loop seeds for every update.
        """
        model.eval()
        samples, likeliest = self._write(model, batch)
        images = batch.images.cpu().numpy()
        rewards = self._rewards(samples, images)
        base = self._rewards(likeliest, images) if likeliest else None
        better = torch.from_numpy(advantages(rewards, base)).to(samples.tokens.device)
        image_of_caption = torch.arange(len(images), device=better.device)
        tokens = samples.tokens.flatten(0, 1)
        logits = model(  # as a whole, which training on several GPUs wants
            *batch.records,
            image_of_caption.repeat_interleave(self.settings.scst.samples),
            tokens[:, :-1],
        )
        return policy_loss(logits, tokens, better.flatten())

    def _write(self, model: nn.Module, batch: ImageBatch) -> tuple[Captions, Captions | None]:
        """Return captions of each image drawn by chance, and the likeliest, if that is wanted."""
        writer = cast(Captioner, self.accelerator.unwrap_model(model))
        settings, longest = self.settings.scst, self.settings.decoding.max_tokens
        seed = int(torch.randint(LARGEST_SEED, ()))
        generator = torch.Generator(batch.features.device).manual_seed(seed)
        with torch.no_grad(), self.accelerator.autocast():
            memory = writer.encode(*batch.records)
            drawn = sample(
                writer, memory, samples=settings.samples, generator=generator, max_tokens=longest
            )
            if settings.baseline == "mean":
                return drawn, None
            return drawn, greedy(writer, memory, max_tokens=longest)

    def _rewards(
        self, captions: Captions, images: Int[np.ndarray, " image"]
    ) -> Float64[np.ndarray, "image caption"]:
        """Return the CIDEr-D of each caption, in which its end is a word."""
        rows = captions.tokens.flatten(0, 1).tolist()
        each = captions.tokens.shape[1]
        scores = self.cider.scores(
            [self.vocabulary.decode(row) for row in rows],
            images.repeat(each),
            ended=[END in row for row in rows],
        )
        return scores.reshape(-1, each)


def advantages(
    rewards: Float64[np.ndarray, "image sample"], likeliest: Float64[np.ndarray, "image 1"] | None
) -> Float64[np.ndarray, "image sample"]:
    """Return by how much each sample's reward exceeds its baseline.

    That is the reward of the likeliest caption (Rennie et al. 2017) or, without one, the mean of
    the other samples of the image (Luo 2020, "A Better Variant of Self-Critical Sequence
    Training").
    """
    if likeliest is not None:
        return rewards - likeliest
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def policy_loss(
    logits: Float[Tensor, "caption step word"],
    tokens: Int[Tensor, "caption token"],
    advantage: Float[Tensor, " caption"],
) -> Float32[Tensor, ""]:
    """Return the mean over words and ends of minus log-probability times advantage."""
    words = (tokens[:, 1:] != PADDING).sum()
    return -(of_tokens(logits, tokens) * advantage.float()[:, None]).sum() / words


@dataclass(frozen=True)
class Inputs:
    """A training split and, if there is one, the split that scores the model."""

    features: FeatureStore
    data: Path  # folder
    files: tuple[Path, ...]  # with other contents it would be another run
    vocabulary: CaptionVocabulary
    examples: CaptionExamples
    asked: Asked | None

    @property
    def image_ids(self) -> set[str]:
        """The store's ids of all images."""
        return {*self.examples.image_ids, *(self.asked.examples.image_ids if self.asked else ())}


def read_inputs(settings: CaptionSettings, features: FeatureStore, data: Path) -> Inputs:
    """Return the splits that the settings name; raises as `read_split` and `encode` do."""
    split = read_captions(settings.dataset, data, settings.train_split, training=True)
    held_out = _read_held_out(settings, data, split)
    vocabulary = (
        build_bpe(split.texts, size=settings.bpe)
        if settings.bpe
        else build_caption_words(split.texts, min_count=settings.min_count)
    )
    encode_split = functools.partial(
        encode,
        vocabulary=vocabulary,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    return Inputs(
        features=features,
        data=data,
        files=(*split.files, *(held_out.files if held_out else ())),
        vocabulary=vocabulary,
        examples=encode_split(split),
        asked=None if held_out is None else Asked(held_out, encode_split(held_out)),
    )


def _read_held_out(
    settings: CaptionSettings, data: Path, split: CaptionSplit
) -> CaptionSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    held_out = read_captions(settings.dataset, data, settings.eval_split, training=False)
    ids, theirs = ({image.image_id for image in s.images} for s in (split, held_out))
    require_apart(settings, ids, theirs, of="images")
    if len(theirs) == 1:
        logger.info(
            f"eval_split {settings.eval_split} has one image: its CIDEr-D, which picks the best "
            f"checkpoint, is {ONE_IMAGE}",
        )
    return held_out


@dataclass(frozen=True)
class Stage:
    """A stage, as the loop takes it."""

    settings: CaptionSettings
    card: RunCard
    vocabulary: CaptionVocabulary
    model: Captioner
    order: Order
    read_batch: Callable[[Numbers, int], Any]
    loss_of: Callable[[nn.Module, Any], Tensor]


def cross_entropy_stage(settings: CaptionSettings, inputs: Inputs, reader: RecordReader) -> Stage:
    """Return the first stage, with a new model, the same one every time; examples are captions."""
    examples, features = inputs.examples, inputs.features
    statistics = channel_statistics(features, examples.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    with memory_errors("the model does not fit; lower its sizes, such as model.hidden"):
        model = make_model(settings, statistics, inputs.vocabulary)
    return Stage(
        settings,
        cross_entropy_card(settings, inputs),
        inputs.vocabulary,
        model,
        make_order(examples.image_of_caption, examples.image_ids, features, settings),
        lambda numbers, _: read_batch(reader, examples, numbers),
        functools.partial(caption_loss, smoothing=settings.label_smoothing),
    )


def self_critical_stage(
    settings: CaptionSettings,
    inputs: Inputs,
    reader: RecordReader,
    accelerator: Accelerator,
    first: TrainedCaptioner,
) -> Stage:
    """Return the second stage, which goes on from the first one's model; examples are images."""
    settings, examples = settings.self_critical, inputs.examples
    files = (*inputs.files, first.folder / BEST)
    critic = SelfCritical(
        TextCider(examples.texts, end_is_word=True), first.vocabulary, settings, accelerator
    )
    images = np.arange(len(examples.ids))
    return Stage(
        settings,
        make_card(TASK, settings, store=inputs.features, data=inputs.data, files=files),
        first.vocabulary,
        first.model,
        make_order(images, examples.image_ids, inputs.features, settings),
        lambda numbers, _: read_images(reader, examples.image_ids, numbers),
        critic.loss_of,
    )


def cross_entropy_card(settings: CaptionSettings, inputs: Inputs) -> RunCard:
    """Return what makes the first stage the run it is; the second one's settings do not."""
    card = make_card(TASK, settings, store=inputs.features, data=inputs.data, files=inputs.files)
    own = {name: value for name, value in card.settings.items() if name != SCST}
    return dataclasses.replace(card, settings=own)


PREDICTIONS = "predictions.json"


class StageTimes(dict[str, LoopTimes]):
    """Where the time of each stage went."""

    def table(self) -> str:
        """Return the figures as lines for people."""
        return "\n".join(f"stage {stage}\n{times.table()}" for stage, times in self.items())


def train_caption(
    settings: CaptionSettings,
    *,
    stages: Sequence[str],
    store: Path,
    data: Path,
    out: Path,
    device: str | None,
) -> tuple[dict[str, Any], StageTimes]:
    """Train the named stages; return {stage: the best checkpoint's scores}, and the times.

    A run that was killed goes on from its last checkpoint, in whichever stage that is. `out` then
    holds a folder for each stage, with what `clipfeat.train.run` lists. Raises UsageError
    before any work, StoreError for a store that cannot be read, ClipfeatError for data that do
    not fit it.
    """
    _require_folder(out, stages)
    inputs = read_inputs(settings, FeatureStore.open(store), data)
    if XE not in stages:
        require_same_run(out / XE, cross_entropy_card(settings, inputs))
    results: dict[str, Any] = {}
    times = StageTimes()
    for name in stages:
        accelerator = accelerator_on(device, settings)
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
        reader = RecordReader(inputs.features, accelerator.device, settings.cache)
        reader.require_room(inputs.image_ids, processes=accelerator.num_processes)
        if name == XE:
            stage = cross_entropy_stage(settings, inputs, reader)
        else:
            first = load_stage(out / XE)
            if not (out / XE / RESULT).is_file():
                say_once(
                    accelerator, f"{out / XE} is not done; going on from its epoch {first.epoch}"
                )
            stage = self_critical_stage(settings, inputs, reader, accelerator, first)
        results[name], times[name] = _train(stage, inputs, reader, accelerator, out / name)
    return results, times


def describe_stages(results: Mapping[str, Any]) -> str:
    """Return the results of stages as lines for people."""
    return "\n\n".join(describe(result) for result in results.values())


def _train(
    stage: Stage, inputs: Inputs, reader: RecordReader, accelerator: Accelerator, run: Path
) -> tuple[dict[str, Any], LoopTimes]:
    """Train a stage, or go on, until `run` holds its best checkpoint and what that comes to."""
    asked, settings = inputs.asked, stage.settings

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        assert asked is not None
        captions = write_captions(
            model, reader, asked.examples, stage.vocabulary, settings, accelerator
        )
        return {"score": asked.score(captions)}

    with open_run(run, stage.card, stage.vocabulary, accelerator):
        times = train(
            stage.model,
            settings,
            run=run,
            accelerator=accelerator,
            order=stage.order,
            read_batch=stage.read_batch,
            loss_of=stage.loss_of,
            evaluate=evaluate if asked else None,
        )
    best = load_stage(run)
    result = {"split": "", "stage": run.name, "epoch": best.epoch, "blind": settings.blind}
    table = None
    if asked is not None:
        result, captions = caption_split(best, asked, reader, accelerator, run / PREDICTIONS)
        table = asked.score_table(captions)
    if accelerator.is_main_process:
        write_results(run, result, table)
    return result, times


def _require_folder(out: Path, stages: Sequence[str]) -> None:
    """Raise UsageError unless the stages can be trained into a run's folder."""
    for stage in STAGES:
        require_no_link(out / stage)
    strange = out.is_dir() and any(out.iterdir()) and not any((out / s).is_dir() for s in STAGES)
    if strange or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"{out} exists and is no run folder of captioning, which has a folder for each "
            "stage; pass another --out"
        )
    if SCST in stages and XE not in stages and not (out / XE / BEST).is_file():
        raise UsageError(
            f"stage {SCST} goes on from the best model of stage {XE}, and {out / XE} has none; "
            f"train it first, or pass --stage {XE},{SCST}"
        )
