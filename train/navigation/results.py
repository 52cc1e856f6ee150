"""Files of results: the walks of an agent, checked against the graphs, scored or submitted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.files import write_atomically
from ...base.jsonio import identifier, read_json_lines, read_json_list
from ..data.ids import require_unique
from ..metrics.navigation import collapse
from .episodes import Episode, EpisodeSplit
from .graphs import Scan

EXAMPLES = 3  # mistakes of each kind that an error names
MAX_STEPS = 100_000  # of a walk; agents stop after a few dozens
UPRIGHT = (0.0, 0.0)  # heading and elevation in a submission; scoring reads viewpoints alone


@dataclass(frozen=True)
class Walked:
    """An episode, and the walk of an agent in its scan."""

    episode: Episode
    walk: tuple[int, ...]  # viewpoints by their numbers in the scan, none follows itself
    reference: tuple[int, ...]  # the episode's path, likewise


def read_results(path: Path) -> dict[str, tuple[str, ...]]:
    """Return {instruction id: viewpoints in the order walked} of a file of results.

    A file is R2R's list of {"instr_id", "trajectory"} or RxR's JSON lines of {"instruction_id",
    "path"}; both keys are known in both. A viewpoint is an id or [id, heading, elevation]; lists of
    ids inside the list, one for each action, are joined.

    Raises ClipfeatError for a file that cannot be read (E-JSON-READ), another format
    (E-NAV-RESULTS), an id that occurs twice (E-DATA-TWICE) and no results (E-NAV-RESULTS).
    """
    walks: dict[str, tuple[str, ...]] = {}
    is_lines = path.name.endswith((".jsonl", ".jsonl.gz"))
    records = read_json_lines(path) if is_lines else read_json_list(path, of="walks")
    for place, record in records:
        id_key, walk_key = _keys(record, place)
        instruction_id = str(identifier(record, id_key, place))
        require_unique(instruction_id, walks, id_key, place)
        walk = tuple(_viewpoints(record[walk_key], f"{place}.{walk_key}"))
        if not 0 < len(walk) <= MAX_STEPS:
            raise ClipfeatError(
                f"{place}: {walk_key} must have 1 to {MAX_STEPS:,} viewpoints, the start first; got "
                f"{len(walk)}",
                code="E-NAV-RESULTS",
            )
        walks[instruction_id] = walk
    if not walks:
        raise ClipfeatError(f"{path}: holds no walks", code="E-NAV-RESULTS")
    return walks


def check_walks(
    walks: Mapping[str, Sequence[str]],
    split: EpisodeSplit,
    scans: Mapping[str, Scan],
    *,
    path: Path,
    subset: bool = False,
) -> list[Walked]:
    """Return the walks of a split's episodes, in its order, as numbers of viewpoints.

    Walks of episodes that were left out of the split are not among them. `path` names the file in
    errors. Raises ClipfeatError (E-NAV-RESULTS-IDS) for ids that the split does not have and,
    unless `subset`, for ids without a walk; (E-NAV-WALK) for walks that do not begin at the start,
    have a viewpoint that the graph does not, or a step that is not an edge.
    """
    _check_ids(walks, split, path, subset=subset)
    mistakes: dict[str, list[str]] = {}
    checked: list[Walked] = []
    for episode in split.episodes:
        if episode.instruction_id not in walks:
            continue
        scan = scans[episode.scan]
        walk = walks[episode.instruction_id]
        if mistake := _mistake(walk, episode, scan):
            kind, example = mistake
            mistakes.setdefault(kind, []).append(f"{episode.instruction_id} {example}")
            continue
        numbers, reference = (
            tuple(collapse([scan.index[viewpoint] for viewpoint in viewpoints]))
            for viewpoints in (walk, episode.path)
        )
        checked.append(Walked(episode, numbers, reference))
    if mistakes:
        problems = "; ".join(
            f"{len(examples)} of {len(walks)} {kind}: {', '.join(examples[:EXAMPLES])}"
            for kind, examples in mistakes.items()
        )
        raise ClipfeatError(
            f"{path}: {problems}; write every viewpoint that is passed, from the start on",
            code="E-NAV-WALK",
        )
    if not checked:
        raise ClipfeatError(
            f"{path}: no walk is left to score; all are of episodes that were left out",
            code="E-NAV-RESULTS-IDS",
        )
    return checked


def require_references(split: EpisodeSplit) -> None:
    """Raise UsageError (E-NAV-PAGE) for a split whose goals are hidden: a page shows references."""
    if not split.has_goals:
        raise UsageError(
            f"--page shows walks beside their references, and {split.file} has none; drop it",
            code="E-NAV-PAGE",
        )


def write_submission(
    out: Path, walked: Sequence[Walked], split: EpisodeSplit, scans: Mapping[str, Scan]
) -> None:
    """Write checked walks for upload: R2R's JSON list, or RxR's JSON lines.

    R2R's file has [viewpoint, 0, 0] for each viewpoint: scoring reads neither heading nor
    elevation. Raises UsageError (E-NAV-SUBMISSION) where episodes were left out of the split, so that
    their walks are not checked, and for a split of RxR with ids that are no numbers.
    """
    if split.left_out.count:
        raise UsageError(
            f"{split.file}: a submission needs a checked walk for each instruction; "
            f"{'; '.join(split.left_out.lines())}",
            code="E-NAV-SUBMISSION",
        )
    if split.dataset == "rxr":
        ids = (each.episode.instruction_id for each in walked)
        if odd := [name for name in ids if isinstance(_number_or_text(name), str)]:
            raise UsageError(
                f"{split.file}: a submission to RxR needs numbers as instruction ids; got "
                f"{odd[0]!r:.60}",
                code="E-NAV-SUBMISSION",
            )
    write_results(out, walked, split, scans)


def write_results(
    out: Path, walked: Sequence[Walked], split: EpisodeSplit, scans: Mapping[str, Scan]
) -> None:
    """Write walks in the format of the split's data set, which `read_results` reads."""
    ids = [each.episode.instruction_id for each in walked]
    paths = [[scans[each.episode.scan].viewpoints[n] for n in each.walk] for each in walked]
    if split.dataset == "r2r":
        records = [
            {"instr_id": name, "trajectory": [[viewpoint, *UPRIGHT] for viewpoint in path]}
            for name, path in zip(ids, paths, strict=True)
        ]
        write_atomically(out, (json.dumps(records) + "\n").encode())
        return
    lines = [
        json.dumps({"instruction_id": _number_or_text(name), "path": path}) + "\n"
        for name, path in zip(ids, paths, strict=True)
    ]
    write_atomically(out, "".join(lines).encode())


def _number_or_text(name: str) -> int | str:
    """Return the number that a name is written as, or the name."""
    is_number = name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0")
    return int(name) if is_number else name


def _keys(record: Any, place: str) -> tuple[str, str]:
    """Return the keys of a record's id and of its walk."""
    known = (("instr_id", "instruction_id"), ("trajectory", "path"))
    if isinstance(record, dict):
        found = [next((key for key in keys if key in record), "") for keys in known]
        if all(found):
            return found[0], found[1]
    raise ClipfeatError(
        f"{place}: expected an object with instr_id and trajectory, or instruction_id and path; got "
        f"{record!r:.80}",
        code="E-NAV-RESULTS",
    )


def _viewpoints(value: Any, place: str) -> Iterator[str]:
    """Yield the ids of a walk: texts, [id, heading, elevation], or lists of ids."""
    if not isinstance(value, list):
        raise ClipfeatError(
            f"{place} must be a list of viewpoints; got {value!r:.60}", code="E-NAV-RESULTS"
        )
    for number, item in enumerate(value):
        items = item if isinstance(item, list) else [item]
        is_pose = len(items) == 3 and not any(isinstance(part, str) for part in items[1:])
        for viewpoint in items[:1] if is_pose else items:
            if not isinstance(viewpoint, str):
                raise ClipfeatError(
                    f"{place}[{number}] must be a viewpoint, [viewpoint, heading, elevation] or a "
                    f"list of viewpoints; got {item!r:.60}",
                    code="E-NAV-RESULTS",
                )
            yield viewpoint


def _check_ids(
    walks: Mapping[str, Sequence[str]], split: EpisodeSplit, path: Path, *, subset: bool
) -> None:
    wanted = {episode.instruction_id for episode in split.episodes}
    left_out = {each for ids in split.left_out.ids.values() for each in ids}
    unknown, missing = walks.keys() - wanted - left_out, wanted - walks.keys()
    problems = [
        f"{len(ids)} of {total} {problem}, such as {', '.join(sorted(ids)[:EXAMPLES])}"
        for ids, total, problem in (
            (unknown, len(walks), f"ids of the results are not of split {split.name}"),
            (missing if not subset else (), len(wanted), f"ids of split {split.name} have no walk"),
        )
        if ids
    ]
    if problems:
        remedy = "score a split with its own results"
        if missing and not unknown:
            remedy = "add their walks, or pass --subset to score the others"
        raise ClipfeatError(f"{path}: {'; '.join(problems)}; {remedy}", code="E-NAV-RESULTS-IDS")


def _mistake(walk: Sequence[str], episode: Episode, scan: Scan) -> tuple[str, str] | None:
    """Return the kind of a walk's first mistake and where it is, None for a walk without one."""
    if walk[0] != episode.path[0]:
        return "walks do not begin at their start", f"at {walk[0]:.40}, not {episode.path[0]:.40}"
    for step, viewpoint in enumerate(walk):
        if viewpoint not in scan.index:
            return (
                "walks have a viewpoint that their scan's graph does not have",
                f"step {step}, {viewpoint:.40} in scan {scan.name}",
            )
        if step == 0 or viewpoint == walk[step - 1]:
            continue
        if scan.index[viewpoint] not in scan.neighbours[scan.index[walk[step - 1]]]:
            return "walks jump", f"step {step}, from {walk[step - 1]:.40} to {viewpoint:.40}"
    return None
