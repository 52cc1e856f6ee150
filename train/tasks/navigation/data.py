"""What agents learn from: episodes of R2R or RxR, their graphs, and the features of all viewpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64, Num
from torch import Tensor

from ....base.errors import UsageError
from ....featstore import FeatureStore
from ....featstore.lookup import Status
from ...data.ids import require_folder
from ...data.vocabulary import WordPieces, require_known
from ...navigation.environment import Environment, Episodes
from ...navigation.episodes import (
    NO_FEATURES,
    Episode,
    EpisodeSplit,
    LeftOut,
    check_episodes,
    read_episodes,
)
from ...navigation.evaluation import read_scans_of
from ...navigation.features import (
    READ_TOGETHER,
    read_features,
    require_features,
    viewpoint_ids,
)
from ...navigation.graphs import SUFFIX, Scan
from ...navigation.views import VIEWS
from ...navigation.words import PADDING, InstructionVocabulary, InstructionWords, build_words
from ...normalize import FeatureNorm, feature_statistics
from ...run import BEST
from ...task import require_apart
from .settings import NavigationSettings, split_names

GRAPHS = "connectivity"  # the folder in --data, without --graphs


class EpisodeBatch(NamedTuple):
    """Some instructions of a split."""

    rows: Int64[Tensor, " episode"]  # their places in the split
    tokens: Int64[Tensor, "episode token"]  # begin, words, end, padding
    lengths: Int64[Tensor, " episode"]  # tokens without padding


@dataclass(frozen=True)
class Split:
    """The instructions of a split: as the file has them, as numbers, and on the device."""

    read: EpisodeSplit
    tokens: Int[np.ndarray, "episode token"]
    tensors: Episodes

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def name(self) -> str:
        """The name of the split."""
        return self.read.name

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The instructions with their paths, in the order of the file."""
        return self.read.episodes

    def batch(self, rows: Int[np.ndarray, " _"]) -> EpisodeBatch:
        """Return the instructions at `rows`, on the CPU, padded to the longest of them."""
        tokens = torch.from_numpy(self.tokens[rows]).long()
        lengths = (tokens != PADDING).sum(1)
        return EpisodeBatch(
            torch.from_numpy(np.asarray(rows, np.int64)), tokens[:, : int(lengths.max())], lengths
        )


@dataclass(frozen=True)
class EpisodeFiles:
    """Checked episodes of several splits, with the scans that they take place in."""

    store: FeatureStore
    folder: Path
    graphs: Path
    splits: tuple[EpisodeSplit, ...]
    scans: dict[str, Scan]
    read: tuple[Path, ...]  # with other contents of these files, a run is another run


@dataclass(frozen=True)
class NavigationData:
    """What a stage learns from, with the environment on its device."""

    files: EpisodeFiles
    words: InstructionVocabulary
    norm: FeatureNorm  # of the environment's features, which it has normalised
    environment: Environment
    training: Split
    held_out: tuple[Split, ...]

    @property
    def written(self) -> InstructionWords:
        """The words that a speaker writes; a run with word pieces has no speaker."""
        assert isinstance(self.words, InstructionWords)
        return self.words

    @property
    def store(self) -> FeatureStore:
        """The store that the features were read from."""
        return self.files.store


def read_files(
    settings: NavigationSettings,
    names: Sequence[str],
    *,
    store: FeatureStore,
    data: Path,
    graphs: Path | None = None,
) -> EpisodeFiles:
    """Return the episodes of splits, checked against the graphs and the store; reads no feature.

    Each of `names` is one split, or several joined by +. `graphs` takes the place of
    `settings.graphs`. Episodes in scans of which a viewpoint has no features are left out, at most
    `settings.skip_missing` of a split; for more, UsageError (E-NAV-FEATURES) names the viewpoints.
    Raises as `read_episodes`, `read_scans` and `check_episodes` do.
    """
    folder = graphs or Path(settings.graphs or data / GRAPHS)
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder; pass --graphs, the folder of the connectivity files",
            code="E-NAV-SCAN",
        )
    parts = [[read_episodes(data, part) for part in split_names(name) or (name,)] for name in names]
    languages = split_names(settings.languages)
    read = [
        in_languages(_joined(name, each), languages)
        for name, each in zip(names, parts, strict=True)
    ]
    scans = read_scans_of(read, folder)
    featureless = _featureless(store, scans)
    splits = tuple(check_episodes(split, scans, featureless) for split in read)
    for split in splits:
        if len(split.left_out.ids.get(NO_FEATURES, ())) > settings.skip_missing:
            require_features(store, {name: scans[name] for name in featureless})
    used = {episode.scan for split in splits for episode in split.episodes}
    kept = {name: scan for name, scan in scans.items() if name in used}
    graph_files = (folder / f"{name}{SUFFIX}" for name in kept)
    episode_files = (part.file for each in parts for part in each)
    return EpisodeFiles(store, data, folder, splits, kept, (*episode_files, *graph_files))


def read_training(
    settings: NavigationSettings,
    *,
    store: str | Path,
    data: Path,
    device: torch.device,
    pieces: WordPieces | None = None,
) -> NavigationData:
    """Return what a run learns from and is scored on: the training split, and those held out.

    Agents read `pieces`, without them the words of the training split. Features are normalised
    once, by statistics of the training scans' viewpoints. Raises UsageError (E-NAV-GOALS) for a
    held-out split whose goals are hidden, as `require_apart` where it shares instructions with
    training, and as `read_files` does.
    """
    require_folder(data, "R2R's or RxR's files")
    names = (settings.train_split, *settings.eval_splits)
    files = read_files(settings, names, store=FeatureStore.open(store), data=data)
    files = replace(files, read=(*files.read, *_start_files(settings)))
    training, *held_out = files.splits
    for split in files.splits:
        require_goals(split)
    ids = [episode.instruction_id for split in held_out for episode in split.episodes]
    own = [episode.instruction_id for episode in training.episodes]
    require_apart(settings, own, ids, of="instructions")
    words = pieces or build_words([e.text for e in training.episodes], min_count=settings.min_count)
    statistics = feature_statistics(
        files.store,
        viewpoint_ids({name: files.scans[name] for name in training.scans}),
        **settings.of_norm(),
        seed=settings.seed,
    )
    norm = FeatureNorm(statistics, blind=settings.blind)
    environment = make_environment(files, norm, device)
    first, *others = (encode(split, words, environment, settings) for split in files.splits)
    return NavigationData(files, words, norm, environment, first, tuple(others))


def _start_files(settings: NavigationSettings) -> tuple[Path, ...]:
    """Return the file of the pieces, or that of the weights that the text encoder starts from."""
    if settings.init:
        return (Path(settings.init) / BEST,)
    return (Path(settings.pieces),) if settings.pieces else ()


def require_goals(split: EpisodeSplit) -> None:
    """Raise UsageError (E-NAV-GOALS) for a split whose paths are their starts alone."""
    if not split.has_goals:
        raise UsageError(
            f"{split.file}: the goals of split {split.name} are hidden, so that it can neither be "
            "trained on nor scored; write its walks with clipfeat eval nav --submission",
            code="E-NAV-GOALS",
        )


def make_environment(
    files: EpisodeFiles, norm: FeatureNorm, device: torch.device | str
) -> Environment:
    """Return the environment of the files' scans, with all features normalised, on a device."""
    features = read_features(files.store, files.scans)
    return Environment(files.scans, normalised(features, norm, torch.device(device)))


def normalised(
    features: Num[Tensor, "viewpoint view dim"], norm: FeatureNorm, device: torch.device
) -> Num[Tensor, "viewpoint view channel"]:
    """Return features as a model sees them, on a device; those of a blind one take no memory.

    In the store's dtype on a GPU, where float16 halves the memory and loses no digit that a store of
    float16 has; in float32 on a CPU, which would have to convert them at each step.
    """
    if norm.blind:
        return torch.zeros((), device=device).expand(len(features), VIEWS, norm.channels)
    dtype = features.dtype if device.type == "cuda" else torch.float32
    table = torch.empty((len(features), VIEWS, norm.channels), dtype=dtype, device=device)
    for start in range(0, len(features), READ_TOGETHER):
        part = features[start : start + READ_TOGETHER]
        mask = torch.ones(part.shape[:2], dtype=torch.bool)
        table[start : start + READ_TOGETHER] = norm(part, mask)
    return table


def encode(
    split: EpisodeSplit,
    words: InstructionVocabulary,
    environment: Environment,
    settings: NavigationSettings,
) -> Split:
    """Return a split as numbers; instructions without a known word are counted in the log."""
    texts = [episode.text for episode in split.episodes]
    tokens = words.encode(texts, max_tokens=settings.max_tokens)
    require_known(words.known(tokens), texts, of=f"split {split.name!r}", noun="instructions")
    tensors = environment.episodes(
        [episode.scan for episode in split.episodes],
        [episode.path for episode in split.episodes],
        [episode.heading for episode in split.episodes],
    )
    return Split(split, tokens, tensors)


def _joined(name: str, parts: Sequence[EpisodeSplit]) -> EpisodeSplit:
    """Return the episodes of one split or of several; the file named in messages is the first one."""
    left_out = LeftOut()
    for part in parts:
        for reason, ids in part.left_out.ids.items():
            left_out.ids.setdefault(reason, []).extend(ids)
            left_out.examples.setdefault(reason, part.left_out.examples[reason])
    episodes = tuple(episode for part in parts for episode in part.episodes)
    return replace(parts[0], name=name, episodes=episodes, left_out=left_out)


def in_languages(split: EpisodeSplit, languages: Iterable[str]) -> EpisodeSplit:
    """Return the episodes of languages, in order; all where none is named.

    Raises UsageError (E-NAV-LANGUAGE) for one that the split does not have.
    """
    kept = [each for language in languages for each in split.in_language(language).episodes]
    if not kept:
        return split
    ids = {episode.instruction_id for episode in kept}
    return replace(split, episodes=tuple(e for e in split.episodes if e.instruction_id in ids))


def _featureless(store: FeatureStore, scans: dict[str, Scan]) -> dict[str, str]:
    """Return the scans in which a viewpoint has no record, with the id of the first one."""
    found: dict[str, str] = {}
    for name, scan in scans.items():
        ids = viewpoint_ids({name: scan})
        for each, status in zip(ids, store.statuses(ids), strict=True):
            if status is not Status.OK:
                found.setdefault(name, each)
    return found
