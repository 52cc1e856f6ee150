"""EnvDrop's speaker: it learns to write the instruction of a path, and is scored by BLEU-4."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ....base.jsonio import write_json
from ....base.text import counted
from ...batches import Numbers
from ...checkpoint import TrainedRun, load_trained
from ...devices import MODEL_SIZE_REMEDY, memory_errors, seeded
from ...metrics.bleu import corpus_bleu
from ...models.speaker import Speaker
from ...navigation.environment import Environment, Episodes
from ...navigation.paths import path_views
from ...navigation.words import (
    END,
    PADDING,
    UNKNOWN,
    InstructionWords,
    read_instruction_words,
    split_words,
)
from ...normalize import FeatureNorm
from ...task import Report, format_unscored, unscored
from .data import EpisodeBatch, NavigationData, Split
from .settings import NavigationSettings
from .task import StageTask, format_stage, gathered

SPEAKER_TASK = "nav_speaker"  # another model than agents have, which cannot walk
METRIC = "bleu4"

TrainedSpeaker = TrainedRun[NavigationSettings, InstructionWords, Speaker]


def make_speaker(
    settings: NavigationSettings, norm: FeatureNorm, words: InstructionWords
) -> Speaker:
    """Return a speaker of random weights."""
    return Speaker(settings.speaker, norm, words=words.size)


def load_speaker(folder: Path) -> TrainedSpeaker:
    """Return the best speaker of a stage's folder; raises UsageError as `load_trained` does."""
    return load_trained(
        folder,
        SPEAKER_TASK,
        NavigationSettings,
        read_vocabulary=read_instruction_words,
        norm="norm",
        build=make_speaker,
    )


def speaker_record(settings: NavigationSettings) -> dict[str, Any]:
    """Return the settings that make a speaker's run the run it is: not those of the other stages."""
    record = dataclasses.asdict(settings.speaking)
    del record["model"], record["back_translation"]
    return record


def write_texts(
    speaker: Speaker,
    environment: Environment,
    episodes: Episodes,
    words: InstructionWords,
    max_words: int,
    kept: Float[Tensor, " dim"] | None = None,
) -> Int64[Tensor, "episode token"]:
    """Return what a speaker writes of the paths of episodes; `kept` is as in `Speaker.write`."""
    return speaker.write(
        *path_views(environment, episodes),
        begin=words.begin,
        end=END,
        barred=(UNKNOWN,),
        max_words=max_words,
        kept=kept,
    )


class Described(NamedTuple):
    """A path, what a speaker writes of it, and the instructions that people wrote."""

    scan: str
    path_id: str
    instruction: str
    references: tuple[str, ...]


class SpeakerTask(StageTask):
    """Train EnvDrop's speaker; an example is an instruction, with the path that it describes."""

    name = SPEAKER_TASK
    model: Speaker

    def __init__(
        self, settings: NavigationSettings, data: NavigationData, accelerator: Accelerator
    ):
        """Make the model that training begins with, the same one every time."""
        settings = settings.speaking
        with memory_errors(MODEL_SIZE_REMEDY), seeded(settings.seed):
            model = make_speaker(settings, data.norm, data.written)
        super().__init__(settings, data, accelerator, model)

    def settings_record(self) -> dict[str, Any]:
        """Return the settings without those of the other stages."""
        return speaker_record(self.settings)

    def loss(self, model: nn.Module, batch: EpisodeBatch) -> Tensor:
        """Return the mean cross-entropy of the words and of their ends, shape ()."""
        episodes = self.world.training.tensors.take(batch.rows)
        logits = model(*path_views(self.world.environment, episodes), batch.tokens[:, :-1])
        return cross_entropy(
            logits.float().flatten(0, 1), batch.tokens[:, 1:].flatten(), ignore_index=PADDING
        )

    def evaluate(self, model: nn.Module) -> Mapping[str, Any]:
        """Return 100 times the BLEU-4 of each held-out split; the score is that of `select_split`."""
        scores = {
            split.name: {METRIC: bleu_percent(self.describe(model, split))}
            for split in self.world.held_out
        }
        if not scores:
            return {}
        return {"score": scores[self.settings.select_split][METRIC], **scores}

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Write the instructions of each held-out split into the run, beside people's."""
        if not self.world.held_out:
            return unscored(self.settings, epoch)
        described = {split.name: self.describe(model, split) for split in self.world.held_out}
        if not self.accelerator.is_main_process:
            return Report({})
        splits = {}
        for name, paths in described.items():
            file = run / f"predictions_{name}.json"
            write_json(file, [each._asdict() for each in paths])
            splits[name] = {
                "n": len(paths),
                METRIC: bleu_percent(paths),
                "predictions": str(file),
            }
        return Report(self.result(run, epoch, METRIC, splits))

    def describe(self, model: nn.Module, split: Split) -> list[Described]:
        """Return each path of a split once, with what the model writes of it; of all processes."""
        speaker = self.accelerator.unwrap_model(model.eval())
        rows_of = rows_of_paths(split)
        first = np.array([rows[0] for rows in rows_of.values()])

        def write(part: Numbers) -> list[str]:
            tokens = write_texts(
                speaker,
                self.world.environment,
                split.tensors.take(torch.from_numpy(part).to(self.accelerator.device)),
                self.world.written,
                self.settings.speaker.max_words,
            )
            return [self.world.written.decode(row) for row in tokens.tolist()]

        written = gathered(first, write, self.settings, self.accelerator)
        return [
            Described(
                scan,
                path_id,
                written[rows[0]],
                tuple(split.episodes[row].text for row in rows),
            )
            for (scan, path_id), rows in rows_of.items()
        ]


def rows_of_paths(split: Split) -> dict[tuple[str, str], list[int]]:
    """Return {(scan, path id): the rows of its instructions}."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, episode in enumerate(split.episodes):
        rows.setdefault((episode.scan, episode.path_id), []).append(row)
    return rows


def bleu_percent(paths: Sequence[Described]) -> float:
    """Return 100 times the BLEU-4 of what was written, with people's words as a follower reads them."""
    references = [[" ".join(split_words(text)) for text in each.references] for each in paths]
    return round(100 * corpus_bleu([each.instruction for each in paths], references), 2)


def format_written(result: Mapping[str, Any]) -> str:
    """Return the result of the speaker's stage as lines for people."""
    if text := format_unscored(result):
        return text
    lines = [format_stage(result, "BLEU-4")]
    for name, scores in result["splits"].items():
        lines += [
            f"{scores[METRIC]:6.2f}  BLEU-4 on {name}, {counted(scores['n'], 'path')}; "
            f"written: {scores['predictions']}"
        ]
    return "\n".join(lines)
