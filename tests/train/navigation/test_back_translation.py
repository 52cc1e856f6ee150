"""Back-translation: a follower learns from what a speaker writes of other paths, in one environment."""

import shutil
import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from children import Child, wait_for_update
from nav_files import write_r2r
from nav_world import FAST, make_nav_world, nav_settings, read_json, train_nav
from refused import refuses
from stopped import Stopped, stop_in_update

from clipfeat.train.checkpoint import read_checkpoint
from clipfeat.train.devices import accelerator_on
from clipfeat.train.models.follower import Follower
from clipfeat.train.models.speaker import Speaker
from clipfeat.train.navigation.augmentation import shortest_path_episodes
from clipfeat.train.navigation.words import END, PADDING
from clipfeat.train.tasks import load_run
from clipfeat.train.tasks.navigation.augmented import read_augmented
from clipfeat.train.tasks.navigation.backtranslation import BackTranslationTask
from clipfeat.train.tasks.navigation.data import read_training
from clipfeat.train.tasks.navigation.speaker import load_speaker
from clipfeat.train.tasks.navigation.training import make_task

BOTH = ("follower", "speaker")
LAST = ("backtranslation",)
SETTINGS = (
    *("updates=4", "max_tokens=20", "eval_every=4", "checkpoint_every=3", "batch_size=12"),
    "speaker={word=16, hidden=32, angle_repeats=2, dropout=0.2, feature_dropout=0.2, max_words=20, "
    "updates=30, batch_size=32, lr=1e-2}",
    "back_translation={updates=5, paths=30}",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nav_world(tmp_path_factory.mktemp("world"), houses=3)


@pytest.fixture(scope="module")
def stages(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the stages before."""
    out = tmp_path_factory.mktemp("stages") / "run"
    train_nav(world, out, *SETTINGS, stages=BOTH)
    return out


@pytest.fixture
def out(stages: Path, tmp_path: Path) -> Path:
    """A copy of it, to train the last stage into."""
    return shutil.copytree(stages, tmp_path / "run")


def new_task(world: Path, out: Path, *changes: str) -> BackTranslationTask:
    settings = nav_settings(*SETTINGS, *changes)
    accelerator = accelerator_on("cpu", settings)
    device = accelerator.device
    store, folder = world / "views.clipfeat", world / "data"
    data = read_training(settings, store=store, data=folder, device=device)
    paths = read_augmented(settings, data)
    task = make_task("backtranslation", settings, data, accelerator, out, paths=paths)
    assert isinstance(task, BackTranslationTask)
    return task


def test_one_environment_for_the_speaker_and_the_follower(
    world: Path, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels that one image of an update lacks, all lack: of all views, candidates, steps, paths.

    Images of people's instructions lack none. The others are all multiplied by 1 / 0.6.
    """
    task = new_task(world, stages)
    cast(Follower, task.model).drop_features.p = 0.3
    seen: dict[str, list[tuple[Any, Any]]] = {"speaker": [], "follower": []}

    def record(kind: type, method: str, name: str) -> None:
        original = getattr(kind, method)

        def recorded(self: Any, images: Any, *rest: Any) -> Any:
            result = original(self, images, *rest)
            seen[name].append((images.flatten(0, -2), result[..., :12].flatten(0, -2)))
            return result

        monkeypatch.setattr(kind, method, recorded)

    record(Speaker, "_seen", "speaker")
    record(Follower, "_images", "follower")
    torch.manual_seed(3)
    task.loss(task.model.train(), task.batch(np.arange(12), 0))
    images, results = zip(*seen["speaker"], strict=True)
    assert len(images) == 2  # candidates and views
    ratio = torch.cat(results) / torch.cat(images)
    kept = ratio.nan_to_num().amax(0)  # zeros of STOP give no ratio
    assert torch.allclose(kept[kept > 0], torch.tensor(1 / 0.6))
    assert 0 < (kept > 0).sum() < 12
    assert torch.equal(torch.cat(results), torch.cat(images) * kept)
    ordinary, in_environment = [], []
    for images, results in seen["follower"]:
        is_same = torch.equal(results, images * kept)
        real = images.any(-1)  # STOP and padding are zeros
        (in_environment if is_same else ordinary).append(results[real])
    assert len(in_environment) >= 4
    assert len(ordinary) >= 4
    shares = (torch.cat(ordinary) == 0).float().mean(0)  # feature dropout, drawn for each number
    assert ((shares > 0.2) & (shares < 0.4)).all()


def test_environments_differ_and_lack_their_share(world: Path, stages: Path) -> None:
    task = new_task(world, stages)
    drawn = torch.stack([task.draw_environment() for _ in range(500)])
    assert torch.allclose(drawn[drawn > 0], torch.tensor(1 / 0.6))
    deviation = (0.4 * 0.6 / drawn.numel()) ** 0.5
    assert abs(float((drawn == 0).float().mean()) - 0.4) < 4 * deviation
    assert len({tuple(each) for each in drawn.tolist()}) > 400
    none = new_task(world, stages, "back_translation.env_dropout=0.0")
    assert none.draw_environment().tolist() == [1.0] * 12


def test_paths_have_the_instructions_that_the_speaker_writes(world: Path, stages: Path) -> None:
    """As read: begin, words, end, padding; a text that is cut off ends at the last word."""
    task = new_task(world, stages)
    words, rows = task.world.written, torch.arange(12)
    paths, everything = task.paths.take(rows), torch.ones(12)
    texts = task.written(paths, rows, everything)
    assert texts.rows.equal(rows)
    for tokens, length in zip(texts.tokens.tolist(), texts.lengths.tolist(), strict=True):
        assert (tokens[0], tokens[length - 1]) == (words.begin, END)
        assert not any(token in (PADDING, END, words.begin) for token in tokens[1 : length - 1])
        assert tokens[length:] == [PADDING] * (len(tokens) - length)
    with torch.no_grad():
        task.speaker.classifier.bias[END] = -1000
    long = task.written(paths, rows, everything)
    assert long.lengths.tolist() == [21] * 12  # begin, and 20 with the end
    assert (long.tokens[:, -1] == END).all()
    torch.manual_seed(0)
    for weight in task.speaker.parameters():  # large, so that words depend on what is seen
        torch.nn.init.normal_(weight)
    seen, unseen = (task.written(paths, rows, kept) for kept in (everything, everything * 0))
    assert not seen.tokens.equal(unseen.tokens)


def test_a_loss_has_both_kinds_of_instructions(world: Path, stages: Path) -> None:
    """Linear in both weights of teacher forcing, from the same random numbers."""

    def loss(people: float, speaker: float) -> float:
        changes = (f"teacher_weight={people}", f"back_translation.teacher_weight={speaker}")
        task = new_task(world, stages, *changes)
        torch.manual_seed(0)
        return task.loss(task.model.train(), task.batch(np.arange(12), 0)).item()

    base = loss(0.0, 0.0)
    by_people, by_speaker = loss(1.0, 0.0) - base, loss(0.0, 1.0) - base
    assert by_people > 0.5
    assert by_speaker > 0.5
    expected = base + 0.2 * by_people + 0.6 * by_speaker
    assert loss(0.2, 0.6) == pytest.approx(expected, rel=1e-4)


def test_paths_of_a_batch_follow_from_seed_epoch_and_examples(world: Path, stages: Path) -> None:
    task = new_task(world, stages)
    whole = task.batch(np.array([5, 9, 60, 3]), 2)
    parts = [task.batch(np.array(rows), 2) for rows in ([5, 9], [60, 3])]
    assert torch.cat([part.paths for part in parts]).equal(whole.paths)
    assert not task.batch(np.array([5, 9, 60, 3]), 3).paths.equal(whole.paths)
    other = new_task(world, stages, "seed=1")
    assert not other.batch(np.array([5, 9, 60, 3]), 2).paths.equal(whole.paths)
    drawn = torch.cat([task.batch(np.arange(70), epoch).paths for epoch in range(8)])
    assert set(drawn.tolist()) == set(range(30)), "each path is described in time"


def test_it_begins_with_the_best_follower(world: Path, stages: Path) -> None:
    task = new_task(world, stages)
    best, _ = read_checkpoint(stages / "follower" / "best.safetensors")
    for name, weight in task.model.state_dict().items():
        assert weight.equal(best[f"model.{name}"]), name
    assert (task.settings.updates, task.settings.lr) == (5, 1e-4)


def test_paths_are_those_of_training_graphs(world: Path, stages: Path) -> None:
    task = new_task(world, stages)
    houses = ("house0", "house1")
    scans = {name: task.world.environment.scans[name] for name in houses}
    expected = shortest_path_episodes(scans, count=30, seed=0)
    assert read_augmented(task.settings, task.world) == expected
    assert len(task.paths) == 30


def test_paths_of_a_file(world: Path, stages: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Start and goal stand for the shortest path; other houses than those of training are left out."""
    folder = stages.parent
    records = [
        read_json(world / "data" / f"R2R_{split}.json")[0] for split in ("train", "val_unseen")
    ]
    for record in records:
        record["path"] = record["path"][:: len(record["path"]) - 1]
        del record["instructions"]
    file = write_r2r(folder, "augmented", records)
    change = f"back_translation.augmented={file}"
    task = new_task(world, stages, change)
    (path,) = read_augmented(task.settings, task.world)
    scan = task.world.environment.scans[records[0]["scan"]]
    start, goal = (scan.index[name] for name in records[0]["path"])
    assert path.path == tuple(scan.viewpoints[row] for row in scan.path(start, goal))
    assert "1 path left out, in scans that train_split train does not have" in caplog.text
    assert file in task.data_files
    file = write_r2r(folder, "elsewhere", records[1:])
    with refuses("E-NAV-AUGMENTED", "none of 1 path", "train_split train"):
        new_task(world, stages, f"back_translation.augmented={file}")


def test_a_stopped_run_goes_on_bit_for_bit(
    world: Path, stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = (shutil.copytree(stages, tmp_path / name) for name in ("whole", "run"))
    result = train_nav(world, whole, *SETTINGS, stages=LAST)["backtranslation"]
    for update in (4, 2):
        with pytest.raises(Stopped), stop_in_update(monkeypatch, BackTranslationTask, update):
            train_nav(world, run, *SETTINGS, stages=LAST)
    assert train_nav(world, run, *SETTINGS, stages=LAST)["backtranslation"]["splits"].keys() == (
        result["splits"].keys()
    )
    for name in ("last.safetensors", "best.safetensors", "predictions_val_unseen.json"):
        ended, other = (each / "backtranslation" / name for each in (run, whole))
        assert ended.read_bytes() == other.read_bytes(), name
    # What walks is the last stage; the others are as they were.
    assert load_run(run).folder == run / "backtranslation"
    assert load_run(stages).folder == stages / "follower"
    for stage in BOTH:
        for name in ("last.safetensors", "best.safetensors"):
            assert (run / stage / name).read_bytes() == (stages / stage / name).read_bytes()
    # It has changed the follower, and belongs to the speaker's best model as it is.
    best, last = (load_run(each) for each in (stages, run))
    assert not best.model.state_dict()["choose.weight"].equal(
        last.model.state_dict()["choose.weight"]
    )
    files = read_json(run / "backtranslation" / "settings.json")["data_files"]
    assert {"follower/best.safetensors", "speaker/best.safetensors"} <= files.keys()


def test_it_needs_the_stages_before(world: Path, out: Path, tmp_path: Path) -> None:
    with refuses("E-RUN-BEST", "best model of stage follower", "--stage follower,speaker,"):
        train_nav(world, tmp_path / "new", *SETTINGS, stages=LAST)
    shutil.rmtree(out / "speaker")
    with refuses("E-RUN-BEST", "best model of stage speaker"):
        train_nav(world, out, *SETTINGS, stages=LAST)


def test_mistakes_are_found_before_the_stages_before_are_trained(
    world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with refuses("E-NAV-STAGE", "model map"):
        train_nav(world, out, *SETTINGS, "model=map", stages=(*BOTH, *LAST))
    missing = f"back_translation.augmented={tmp_path / 'none.json'}"
    with refuses("E-JSON-READ", "none.json"):
        train_nav(world, out, *SETTINGS, missing, stages=(*BOTH, *LAST))
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "stage"), [("reward=ndtw", "follower"), ("speaker.max_words=12", "speaker")]
)
def test_the_stages_before_must_be_of_the_same_settings(
    world: Path, out: Path, change: str, stage: str
) -> None:
    with refuses("E-RUN-DIFFERS", str(out / stage)):
        train_nav(world, out, *SETTINGS, change, stages=LAST)


def test_stages_that_it_started_from_are_not_extended(world: Path, out: Path) -> None:
    (out / "backtranslation").mkdir()
    (out / "backtranslation" / "settings.json").write_text("{}")  # it has begun
    for change, stage in (("updates=9", "follower"), ("speaker.updates=50", "speaker")):
        for named in ((*BOTH, *LAST), BOTH, (stage,)):
            with refuses("E-RUN-DIFFERS", str(out / stage)):
                train_nav(world, out, *SETTINGS, change, stages=named)


def test_a_speaker_of_other_words_is_refused(world: Path, stages: Path, tmp_path: Path) -> None:
    """As of a run whose file of words was exchanged."""
    out = shutil.copytree(stages, tmp_path / "run")
    file = out / "speaker" / "vocabulary.json"
    file.write_text(file.read_text().replace('"red"', '"rot"'))
    assert "rot" in load_speaker(out / "speaker").vocabulary.words
    with refuses("E-NAV-WORDS", "speaker"):
        train_nav(world, out, *SETTINGS, stages=LAST)


@pytest.mark.slow
def test_stages_that_are_killed_go_on_bit_for_bit(world: Path, tmp_path: Path) -> None:
    """The command line of all stages, killed in the second and in the third."""

    def words(run: str) -> list[str]:
        paths = ["--store", world / "views.clipfeat", "--data", world / "data"]
        stages = ["--stage", "follower,speaker,backtranslation", "--out", tmp_path / run]
        sets = [f"--set={change}" for change in (*FAST, *SETTINGS)]
        return [*map(str, ["train", "nav", *paths, *stages, "--device", "cpu"]), *sets]

    child = Child(*words("whole"))
    said, _ = child.communicate()
    assert child.returncode == 0
    assert said.count("stage ") == 3
    for stage, update in (("speaker", 20), ("backtranslation", 3)):
        child = Child(*words("run"))
        wait_for_update(tmp_path / "run" / stage, update, child)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not (tmp_path / "run" / stage / "result.json").exists()
    child = Child(*words("run"))
    child.communicate()
    assert child.returncode == 0
    for stage in (*BOTH, *LAST):
        for name in ("last.safetensors", "best.safetensors", "predictions_val_unseen.json"):
            ended, other = (tmp_path / run / stage / name for run in ("run", "whole"))
            assert ended.read_bytes() == other.read_bytes(), (stage, name)
