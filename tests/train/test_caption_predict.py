"""`clipfeat predict caption` as typed: one image, a list of them, and several ways to write."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caption_world import caption_of, make_world, name_of, train_world
from stores import make_store
from vqa_world import grid

from clipfeat.featstore import FeatureStore
from clipfeat.train.data.caption_vocabulary import BEGIN, END
from clipfeat.train.devices import accelerator_on
from clipfeat.train.models.decoding import log_probabilities
from clipfeat.train.records import RecordReader
from clipfeat.train.tasks.captioning.model import TrainedCaptioner, load_stage

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]
IMAGE = name_of(41, "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train_world(world, out, stages=("xe",))
    return out


def log_probability(trained: TrainedCaptioner, world: World, caption: str) -> float:
    """Return that of a caption of IMAGE by the whole softmax, its end included."""
    accelerator = accelerator_on("cpu", trained.settings)
    records = RecordReader(FeatureStore.open(world[0]), accelerator.device).read([IMAGE])
    tokens = torch.tensor([[BEGIN, *trained.vocabulary.encode(caption), END]])
    model = trained.model.eval()
    logits = model.logits(model.encode(records), tokens[:, :-1])
    return log_probabilities(logits, tokens).sum().item()


def test_images_are_captioned_as_typed(run: Path, world: World, typed: Typed) -> None:
    images = [IMAGE, name_of(31, "val")]
    code, out, err = typed("predict", "caption", run, *images, "--device", "cpu")
    assert (code, err) == (0, "")
    expected = [caption_of(i).lower()[:-1] for i in (41, 31)]
    lines = [line.split("\t") for line in out.splitlines()]
    assert [(image, caption) for image, _, caption in lines] == list(
        zip(images, expected, strict=True)
    )
    code, out, err = typed("predict", "caption", run, IMAGE, "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert (found["image_id"], found["captions"]) == (IMAGE, expected[:1])
    told = log_probability(load_stage(run / "xe"), world, expected[0])
    assert found["log_probabilities"] == [pytest.approx(told, abs=1e-4)]
    assert lines[0][1] == f"{told:.2f}"


@pytest.mark.parametrize(
    "how",
    [
        ["--captions", "4"],
        ["--captions", "4", "--beam", "6", "--groups", "3", "--diversity", "2"],
        ["--captions", "4", "--nucleus", "1", "--temperature", "3"],
    ],
)
def test_several_captions_of_an_image(
    run: Path, world: World, typed: Typed, how: list[str]
) -> None:
    """Each with its own log-probability; of beams they differ, and the best is first."""
    code, out, _ = typed("predict", "caption", run, IMAGE, *how, "--json", "--device", "cpu")
    assert code == 0
    (found,) = json.loads(out)
    captions, totals = found["captions"], found["log_probabilities"]
    trained = load_stage(run / "xe")
    ended = {c: t for c, t in zip(captions, totals, strict=True) if len(c.split()) < 7}
    assert ended
    for caption, total in ended.items():
        assert total == pytest.approx(log_probability(trained, world, caption), abs=1e-4)
    if "--nucleus" in how:
        assert len(captions) == 4
    else:
        assert 2 <= len(captions) == len(set(captions)) <= 4
        assert totals == sorted(totals, reverse=True)


def test_drawing_follows_from_its_seed_and_keeps_within_its_nucleus(
    run: Path, typed: Typed
) -> None:
    words = ["predict", "caption", run, IMAGE, "--captions", "20", "--device", "cpu"]

    def drawn(*more: str) -> str:
        code, out, _ = typed(*words, *more)
        assert code == 0
        return out

    bold = ("--nucleus", "1", "--temperature", "3")
    assert drawn(*bold) == drawn(*bold, "--seed", "0") != drawn(*bold, "--seed", "1")
    (only,) = set(drawn("--nucleus", "0.01").splitlines())  # no word but the likeliest
    assert only.endswith(caption_of(41).lower()[:-1])


def test_a_list_without_captions_is_captioned_for_the_server(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    """As COCO's test2014 is: other images than any before, in a store of their own."""
    names = {i: f"COCO_test2014_{i:012}" for i in (101, 102, 103)}
    store = make_store(tmp_path / "t.clipfeat", {name: grid(i) for i, name in names.items()})
    listed, out = tmp_path / "image_info_test2014.json", tmp_path / "results.json"
    images: list[dict[str, Any]] = [{"id": i, "file_name": f"{names[i]}.jpg"} for i in (103, 101)]
    listed.write_text(json.dumps({"images": [*images, {"id": 102}], "info": {}}))
    words = ["predict", "caption", run, "--list", listed, "--store", store, "--out", out]
    code, said, err = typed(*words, "--device", "cpu")
    assert (code, err) == (0, "")
    expected = [(i, caption_of(i).lower()[:-1]) for i in (103, 101, 102)]
    assert json.loads(out.read_text()) == [
        {"image_id": i, "caption": caption} for i, caption in expected
    ]
    assert [line.split("\t")[::2] for line in said.splitlines()] == [
        [str(i), caption] for i, caption in expected
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "[E-OPTION-EXCLUDES]"),
        ([IMAGE, "--list", "LIST"], 2, "[E-OPTION-EXCLUDES]"),
        ([IMAGE, IMAGE], 2, "[E-IMAGES-TWICE]"),
        (["nowhere"], 1, "about 1 image without features, such as nowhere; extract these"),
        ([IMAGE, "--out", "no/where.json"], 2, "the folder no does not exist; make it first"),
        ([IMAGE, "--out", "FOLDER"], 2, "exists and is not a regular file; pass another name"),
        ([IMAGE, "--out", "/dev/null"], 2, "--out /dev/null exists and is not a regular file"),
        ([IMAGE, "--captions", "3", "--beam", "2"], 2, "[E-OPTION-RANGE]"),
        ([IMAGE, "--beam", "3", "--groups", "2"], 2, "groups must divide 3 beams; got 2"),
        ([IMAGE, "--diversity", "1"], 2, "--diversity requires --groups"),
        ([IMAGE, "--nucleus", "0.9", "--beam", "2"], 2, "[E-OPTION-EXCLUDES]"),
        ([IMAGE, "--temperature", "2"], 2, "--temperature and --seed require --nucleus"),
        ([IMAGE, "--nucleus", "1.5"], 2, "1.5 is not in the range"),
        (["--list", "LIST"], 1, "images[1]: id '7' occurs twice"),
        (["--list", "EMPTY"], 1, "lists no images"),
        (["--list", "NONE"], 1, "none.json: not a readable JSON file"),
    ],
)
def test_mistakes_get_one_line(
    run: Path, tmp_path: Path, typed: Typed, words: list[str], code: int, message: str
) -> None:
    files = {"LIST": "list.json", "EMPTY": "empty.json", "NONE": "none.json", "FOLDER": "."}
    (tmp_path / "list.json").write_text(json.dumps({"images": [{"id": 7}, {"id": 7}]}))
    (tmp_path / "empty.json").write_text(json.dumps({"images": []}))
    named = [tmp_path / files[word] if word in files else word for word in words]
    got, out, err = typed("predict", "caption", run, *named)
    assert (got, out) == (code, ""), err
    assert message in err
    assert "Traceback" not in err


def test_what_a_received_vocabulary_says_does_not_reach_the_terminal(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    received = shutil.copytree(run, tmp_path / "received")
    path = received / "xe" / "vocabulary.json"
    path.write_text(path.read_text().replace('"shape"', '"\\u001b[2J\\t"'))
    code, out, _ = typed("predict", "caption", received, IMAGE, "--device", "cpu")
    assert (code, out.count("\t")) == (0, 2)
    assert "\x1b" not in out
    assert r"\x1b[2J\t" in out
