"""Episodes of R2R and RxR: an instruction, the path that it describes, where it starts."""

import logging
import math
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field as value_of
from ...base.jsonio import field_items, identifier, read_json_lines, read_json_list, require_unicode
from ...base.text import counted
from ..data.ids import require_folder
from .graphs import Scan

logger = logging.getLogger(__name__)

# {file of a split: its data set}; a folder has one of them.
FILES = {
    "R2R_{}.json": "r2r",
    "rxr_{}_guide.jsonl": "rxr",
    "rxr_{}_guide.jsonl.gz": "rxr",
    "rxr_{}_public_guide.jsonl": "rxr",
    "rxr_{}_public_guide.jsonl.gz": "rxr",
}
# Instructions of the published files: Anderson et al. 2018 and, of RxR, Ku et al. 2020.
PUBLISHED = {
    ("r2r", "train"): 14_039,
    ("r2r", "val_seen"): 1_021,
    ("r2r", "val_unseen"): 2_349,
    ("r2r", "test"): 4_173,
    ("rxr", "train"): 79_467,
}
FULL_TURN = 2 * math.pi
MAX_SPLIT_NAME = 100  # characters; files of the data and of results have the name in theirs
ENGLISH = "en"  # R2R has no other language

# Why an episode is left out.
DAMAGED = "a damaged record"
TWICE = "an id that occurs twice"
NO_WORD = "an instruction without a word"
NOT_RADIANS = "a heading beyond 2 pi, which is not in radians"
NO_GRAPH = "a scan without a graph"
NOT_IN_GRAPH = "a viewpoint that its scan's graph does not have"
NO_EDGE = "a path that leaves the graph"
UNREACHABLE = "a goal that cannot be reached"
NO_FEATURES = "a viewpoint without features"


class Episode(NamedTuple):
    """An instruction and the path that it describes."""

    instruction_id: str  # R2R: "<path id>_<number>"; RxR: a number as text
    path_id: str  # several instructions may describe one path
    scan: str
    path: tuple[str, ...]  # viewpoints; the start alone where the goal is hidden
    heading: float  # radians, clockwise from the y axis
    text: str  # "" where only paths were read
    language: str  # "en", or one of RxR's: en-IN, en-US, hi-IN, te-IN


@dataclass
class LeftOut:
    """The episodes that cannot be used, by reason; each counts under the first that is found."""

    ids: dict[str, list[str]] = field(default_factory=dict)  # {reason: instruction ids or places}
    examples: dict[str, str] = field(default_factory=dict)  # {reason: the first one, in words}

    def add(self, reason: str, instruction_id: str, example: str) -> None:
        """Count an episode."""
        self.ids.setdefault(reason, []).append(instruction_id)
        self.examples.setdefault(reason, example)

    @property
    def count(self) -> int:
        """The number of episodes."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The number of episodes for each reason."""
        return {reason: len(ids) for reason, ids in self.ids.items()}

    def lines(self) -> list[str]:
        """Return a line for each reason: how many, and the first of them."""
        return [
            f"{counted(len(ids), 'episode')} left out: {reason}, such as {self.examples[reason]}"
            for reason, ids in self.ids.items()
        ]


@dataclass(frozen=True)
class EpisodeSplit:
    """The episodes of a split, and those that were left out."""

    dataset: str  # r2r or rxr: the format of the file
    name: str
    episodes: tuple[Episode, ...]
    left_out: LeftOut
    file: Path

    @property
    def has_goals(self) -> bool:
        """Whether paths have more than their start, as those of test splits do not."""
        return any(len(episode.path) > 1 for episode in self.episodes)

    @property
    def scans(self) -> tuple[str, ...]:
        """The names of the scans, sorted."""
        return tuple(sorted({episode.scan for episode in self.episodes}))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, sorted."""
        return tuple(sorted({episode.language for episode in self.episodes}))

    def in_language(self, language: str) -> "EpisodeSplit":
        """Return the episodes of a language: "hi-IN", or "en" for en-IN and en-US.

        Raises UsageError (E-NAV-LANGUAGE) where there are none.
        """
        kept = tuple(
            episode
            for episode in self.episodes
            if language in (episode.language, episode.language.partition("-")[0])
        )
        if not kept:
            raise UsageError(
                f"{self.file} has no instruction in language {language!r:.20}; it has "
                f"{', '.join(self.languages)}",
                code="E-NAV-LANGUAGE",
            )
        return replace(self, episodes=kept)


def find_episodes(data: Path, name: str) -> Path:
    """Return the file of split `name` in a folder of R2R's or RxR's files.

    Raises UsageError for a missing folder, and (E-DATA-FILE) where none or several of the files
    are there.
    """
    require_folder(data, "R2R's or RxR's files")
    names = [form.format(name) for form in FILES]
    found = [data / each for each in names if (data / each).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{data} has {' and '.join(path.name for path in found)}; pass one of these files "
            "instead of their folder",
            code="E-DATA-FILE",
        )
    raise UsageError(
        f"{data} has none of {', '.join(names)}, the episodes of split {name!r}; pass the folder "
        "that has it, or the file",
        code="E-DATA-FILE",
    )


def read_episodes(
    source: Path, name: str | None = None, *, paths_only: bool = False
) -> EpisodeSplit:
    """Return the episodes of a file, or of split `name` of a folder.

    A file whose name ends in .jsonl or .jsonl.gz has RxR's format, any other one R2R's. With
    `paths_only`, for paths that a speaker will describe, each record is one episode without a text.

    Episodes that cannot be used are left out, counted by reason and logged. Raises UsageError for
    a missing file and (E-NAV-SPLIT) for a name that no file can have, ClipfeatError for a file that
    cannot be read (E-JSON-READ), whose headings are in degrees (E-NAV-HEADINGS), or without a usable
    episode (E-DATA-EMPTY).
    """
    if name is not None:
        _require_name(name)
    if source.is_dir() or (name is not None and not source.is_file()):
        if name is None:
            raise UsageError(
                f"{source} is a folder; name one of its splits, such as val_unseen",
                code="E-OPTION-MISSING",
            )
        source = find_episodes(source, name)
    is_rxr = source.name.endswith((".jsonl", ".jsonl.gz"))
    records = (
        read_json_lines(source) if is_rxr else read_json_list(source, of="paths with instructions")
    )
    left_out = LeftOut()
    read = _rxr_episode if is_rxr else _r2r_episodes
    known: dict[str, Episode] = {}
    total = 0
    for place, record in records:
        try:
            found = list(read(record, place, paths_only))
        except ClipfeatError as error:
            left_out.add(DAMAGED, place, str(error))
            total += 1
            continue
        for episode in found:
            total += 1
            if reason := _problem(episode, known, paths_only=paths_only):
                value = f", heading {episode.heading:g}" if reason == NOT_RADIANS else ""
                left_out.add(reason, episode.instruction_id, f"{episode.instruction_id}{value}")
            else:
                known[episode.instruction_id] = episode
    _require_radians(source, left_out, total)
    dataset = "rxr" if is_rxr else "r2r"
    split = EpisodeSplit(dataset, name or source.name, tuple(known.values()), left_out, source)
    _require_some(split)
    _tell(source, left_out)
    if not paths_only:
        _compare_with_published(split, total)
    return split


def check_episodes(
    split: EpisodeSplit, scans: Mapping[str, Scan], featureless: Mapping[str, str] | None = None
) -> EpisodeSplit:
    """Return the split without the episodes that its scans do not allow.

    `featureless` has the scans in which a viewpoint has no features, with the id of one,
    "<scan>_<viewpoint>": an agent may walk anywhere in a scan. Of a path, each step must be an edge; but a path of a start and a goal that are not
    neighbours, as augmentation files have them, is replaced by the shortest path between them.
    Raises ClipfeatError (E-DATA-EMPTY) where nothing is left.
    """
    left_out, kept, implied = LeftOut(), [], 0
    for episode in split.episodes:
        reason, example, path = _place(episode, scans, featureless or {})
        if reason:
            left_out.add(reason, episode.instruction_id, f"{episode.instruction_id}: {example}")
        else:
            implied += path is not episode.path
            kept.append(episode._replace(path=path))
    if implied:
        logger.info(
            f"{split.file}: {counted(implied, 'path')} of a start and a goal only; the shortest "
            "path between them is taken"
        )
    ids = {
        reason: split.left_out.ids.get(reason, []) + left_out.ids.get(reason, [])
        for reason in (*split.left_out.ids, *left_out.ids)
    }
    both = LeftOut(ids, left_out.examples | split.left_out.examples)
    _tell(split.file, left_out)
    checked = replace(split, episodes=tuple(kept), left_out=both)
    _require_some(checked)
    return checked


def _require_name(name: str) -> None:
    """Raise UsageError (E-NAV-SPLIT) unless files can be named by a split."""
    if not 0 < len(name) <= MAX_SPLIT_NAME or "/" in name or not name.isprintable():
        raise UsageError(
            f"{name!r:.60} does not name a split; expected a name such as val_unseen, of at most "
            f"{MAX_SPLIT_NAME} characters, without a slash",
            code="E-NAV-SPLIT",
        )


def _r2r_episodes(record: Any, place: str, paths_only: bool) -> Iterator[Episode]:  # noqa: FBT001
    path_id = str(identifier(record, "path_id", place))
    scan, path, heading = _start(record, place)
    texts = [""] if paths_only else list(_texts(record, place))
    for number, text in enumerate(texts):
        instruction_id = path_id if paths_only else f"{path_id}_{number}"
        yield Episode(instruction_id, path_id, scan, path, heading, text, ENGLISH)


def _rxr_episode(record: Any, place: str, paths_only: bool) -> Iterator[Episode]:  # noqa: FBT001
    """Yield the episode of a line; lines of test splits have no path id, and take their own."""
    instruction_id = str(identifier(record, "instruction_id", place))
    has_path_id = isinstance(record, dict) and "path_id" in record
    path_id = str(identifier(record, "path_id", place)) if has_path_id else instruction_id
    scan, path, heading = _start(record, place)
    text = "" if paths_only else value_of(record, "instruction", str, place)
    language = value_of(record, "language", str, place)
    yield Episode(
        instruction_id,
        path_id,
        scan,
        path,
        heading,
        require_unicode(text, "instruction", place),
        sys.intern(language),
    )


def _texts(record: Any, place: str) -> Iterator[str]:
    for spot, text in field_items(record, "instructions", place):
        if not isinstance(text, str):
            raise ClipfeatError(f"{spot} must be a text; got {text!r:.60}", code="E-JSON-TYPE")
        yield require_unicode(text, "instructions", spot)


def _start(record: Any, place: str) -> tuple[str, tuple[str, ...], float]:
    """Return scan, path and heading; names are interned, since augmentation repeats them."""
    scan = sys.intern(value_of(record, "scan", str, place))
    path: list[str] = []
    for spot, viewpoint in field_items(record, "path", place):
        if not isinstance(viewpoint, str):
            raise ClipfeatError(
                f"{spot} must be the id of a viewpoint; got {viewpoint!r:.60}", code="E-JSON-TYPE"
            )
        path.append(sys.intern(viewpoint))
    heading = record.get("heading")
    is_number = type(heading) in (int, float) and not abs(heading) > sys.float_info.max
    if not is_number or not path:
        problem = f"heading must be a number; got {heading!r:.60}" if path else "path is empty"
        raise ClipfeatError(f"{place}: {problem}", code="E-JSON-TYPE")
    return scan, tuple(path), float(heading)


def _problem(episode: Episode, known: Container[str], *, paths_only: bool) -> str:
    """Return why an episode cannot be used, "" for one that can; its scan is not looked at."""
    if episode.instruction_id in known:
        return TWICE
    if not abs(episode.heading) <= FULL_TURN:  # true of NaN, too
        return NOT_RADIANS
    if not paths_only and not any(letter.isalnum() for letter in episode.text):
        return NO_WORD
    return ""


def _place(
    episode: Episode, scans: Mapping[str, Scan], featureless: Mapping[str, str]
) -> tuple[str, str, tuple[str, ...]]:
    """Return (reason to leave it out or "", what is wrong, path) of an episode."""
    path, scan = episode.path, scans.get(episode.scan)
    if scan is None:
        return NO_GRAPH, f"scan {episode.scan!r:.60}", path
    unknown = next((viewpoint for viewpoint in path if viewpoint not in scan.index), None)
    if unknown is not None:
        return NOT_IN_GRAPH, f"{unknown!r:.60} of scan {episode.scan}", path
    rows = [scan.index[viewpoint] for viewpoint in path]
    goal = f"{path[-1]} from {path[0]} in scan {episode.scan}"
    if not math.isfinite(scan.distances[rows[0], rows[-1]]):
        return UNREACHABLE, goal, path
    for a, b in pairwise(rows):
        if b in scan.neighbours[a]:
            continue
        if len(rows) > 2:
            step = f"{scan.viewpoints[a]} to {scan.viewpoints[b]} in scan {episode.scan}"
            return NO_EDGE, step, path
        path = tuple(scan.viewpoints[row] for row in scan.path(a, b))
    missing = featureless.get(episode.scan)
    return (NO_FEATURES, missing, path) if missing else ("", "", path)


def _require_radians(source: Path, left_out: LeftOut, total: int) -> None:
    """Raise ClipfeatError where most headings are no radians: those of 0 to 6 degrees look right."""
    wrong = len(left_out.ids.get(NOT_RADIANS, ()))
    if 2 * wrong > total:
        raise ClipfeatError(
            f"{source}: headings must be in radians, up to 2 pi; {wrong} of {total} are not, such as "
            f"{left_out.examples[NOT_RADIANS]}: are they degrees? Multiply them by pi / 180",
            code="E-NAV-HEADINGS",
        )


def _require_some(split: EpisodeSplit) -> None:
    if not split.episodes:
        reasons = "; ".join(split.left_out.lines()) or "the file is empty"
        raise ClipfeatError(
            f"{split.file}: holds no usable episode; {reasons}", code="E-DATA-EMPTY"
        )


def _tell(file: Path, left_out: LeftOut) -> None:
    for line in left_out.lines():
        logger.info(f"{file}: {line}")


def _compare_with_published(split: EpisodeSplit, count: int) -> None:
    """Log where a file is about as long as the published one, and may have been cut off."""
    published = next(
        (
            instructions
            for (dataset, part), instructions in PUBLISHED.items()
            for name, of_dataset in FILES.items()
            if of_dataset == dataset and name.format(part) == split.file.name
        ),
        0,
    )
    if count != published and published / 2 < count < 2 * published:
        logger.info(f"{split.file}: {count:,} instructions; the published file has {published:,}")
