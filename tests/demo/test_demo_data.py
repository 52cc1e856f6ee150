"""The demo's data are what their formats say, repeat, and cannot be answered blind."""

import base64
import errno
import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.demo.annotations import make_captions, make_pairs, make_questions
from clipfeat.demo.regions import find_regions
from clipfeat.demo.scenes import COLORS, Scene, Thing, make_scene
from clipfeat.demo.write import karpathy_split, snli_ve_files, vqa_files, write_demo_data

SCENES = [make_scene(0, image_id) for image_id in range(1, 1201)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    written = write_demo_data(folder, 20, seed=0)
    assert (written.images, written.held_out) == (20, 4)
    return folder


def load(folder, name):
    return json.loads((folder / name).read_text())


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pictures_are_jpegs_that_show_the_things_where_they_are(folder):
    for scene in SCENES[:20]:
        image = Image.open(folder / "images" / scene.file_name)
        assert (image.format, image.size) == ("JPEG", (scene.width, scene.height))
        for thing in scene.things:
            x, y = int(thing.x * scene.width), int(thing.y * scene.height)
            seen = np.asarray(image.convert("RGB"))[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
            nearest = min(COLORS, key=lambda c: np.abs(np.subtract(COLORS[c], seen)).sum())
            assert nearest == thing.color


def test_the_same_seed_gives_the_same_bytes_and_fewer_scenes_are_the_first(folder, tmp_path):
    write_demo_data(tmp_path / "again", 20, seed=0)
    assert files(tmp_path / "again") == files(folder)
    write_demo_data(tmp_path / "fewer", 10, seed=0)
    images = {p.name: p.read_bytes() for p in (tmp_path / "fewer" / "images").iterdir()}
    assert images.items() <= {p.name: p.read_bytes() for p in (folder / "images").iterdir()}.items()
    assert make_scene(1, 1) != make_scene(0, 1)


def rows_of(path):
    """Yield (image id, width, height, boxes, features) of bottom-up attention's TSV.

    The rules are those of its `tools/read_tsv.py`: six columns without a header, base64 of float32.
    """
    for line in path.read_text().splitlines():
        image_id, width, height, count, *arrays = line.split("\t")
        boxes, features = (
            np.frombuffer(base64.b64decode(text), np.float32).reshape(int(count), -1)
            for text in arrays
        )
        yield int(image_id), int(width), int(height), boxes, features


def test_regions_are_in_the_format_of_bottom_up_attention(folder):
    rows = list(rows_of(folder / "regions.tsv"))
    assert [row[:3] for row in rows] == [(s.image_id, s.width, s.height) for s in SCENES[:20]]
    for _, width, height, boxes, features in rows:
        assert boxes.shape == (len(features), 4)
        assert features.shape[1] == 256
        left, top, right, bottom = boxes.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= width).all()
        assert (bottom <= height).all()
        assert (right > left).all()
        assert (bottom > top).all()


def test_a_detector_finds_most_things_where_they_are_and_some_that_are_not_there():
    things = seen = false = 0
    for scene in SCENES[:300]:
        regions = find_regions(scene, 0)
        centers = np.array(
            [
                ((left + right) / 2 / scene.width, (top + bottom) / 2 / scene.height)
                for (left, top, right, bottom), _ in regions
            ]
        )
        of_things = np.array([(thing.x, thing.y) for thing in scene.things])
        distances = np.abs(centers[:, None] - of_things).max(axis=2)
        things += len(of_things)
        seen += int((distances.min(axis=0) < 0.05).sum())
        false += int((distances.min(axis=1) > 0.05).sum())
    assert 0.9 < seen / things < 0.99
    assert false > 300


def test_a_linear_reader_of_regions_tells_colours_but_not_all():
    """By least squares on the training scenes, on regions whose box is that of a thing."""
    features, colors, held_out = [], [], []
    for scene in SCENES:
        for (left, top, right, bottom), vector in find_regions(scene, 0):
            center = (left + right) / 2 / scene.width, (top + bottom) / 2 / scene.height
            near = [
                thing
                for thing in scene.things
                if max(abs(thing.x - center[0]), abs(thing.y - center[1])) < 0.04
            ]
            if near:
                features.append(vector)
                colors.append(list(COLORS).index(near[0].color))
                held_out.append(scene.is_val)
    x, color, val = np.array(features, float), np.array(colors), np.array(held_out)
    train = x[~val]
    weights = np.linalg.solve(
        train.T @ train + 10 * np.eye(x.shape[1]), train.T @ np.eye(len(COLORS))[color[~val]]
    )
    accuracy = ((x[val] @ weights).argmax(axis=1) == color[val]).mean()
    assert 0.8 < accuracy < 0.98


def test_vqa_files_have_the_official_keys(folder):
    """The fields are those of the data format page of visualqa.org."""
    images = {p.stem for p in (folder / "images").iterdir()}
    for split in ("train2014", "val2014"):
        questions = load(folder, f"vqa/v2_OpenEnded_mscoco_{split}_questions.json")
        annotations = load(folder, f"vqa/v2_mscoco_{split}_annotations.json")
        assert questions.keys() == {
            "info", "task_type", "data_type", "data_subtype", "license", "questions",
        }  # fmt: skip
        assert annotations.keys() == {
            "info", "data_type", "data_subtype", "license", "annotations",
        }  # fmt: skip
        asked = {q["question_id"]: q for q in questions["questions"]}
        assert len(asked) == len(questions["questions"]) == len(annotations["annotations"])
        for a in annotations["annotations"]:
            assert a.keys() == {
                "question_type", "multiple_choice_answer", "answers", "image_id", "answer_type",
                "question_id",
            }  # fmt: skip
            question = asked[a["question_id"]]
            assert question.keys() == {"image_id", "question", "question_id"}
            assert f"COCO_{split}_{question['image_id']:012}" in images
            assert question["question"].lower().startswith(a["question_type"])
            assert a["answer_type"] in {"yes/no", "number", "other"}
            assert [x["answer_id"] for x in a["answers"]] == list(range(1, 11))
            counts = Counter(x["answer"] for x in a["answers"])
            assert counts.most_common(1)[0][0] == a["multiple_choice_answer"]
            assert {x["answer_confidence"] for x in a["answers"]} <= {"yes", "maybe", "no"}


def test_captions_in_cocos_and_karpathys_formats(folder):
    karpathy = load(folder, "captions/dataset_coco.json")
    assert karpathy["dataset"] == "coco"
    train, val = (load(folder, f"captions/captions_{s}.json") for s in ("train2014", "val2014"))
    by_id = defaultdict(list)
    for annotation in (*train["annotations"], *val["annotations"]):
        by_id[annotation["image_id"]].append(annotation["caption"])
    held_out = {image["id"] for image in val["images"]}
    assert not held_out & {image["id"] for image in train["images"]}
    for image in karpathy["images"]:
        assert (folder / image["filepath"] / image["filename"]).exists()
        assert [s["raw"] for s in image["sentences"]] == by_id[image["cocoid"]]
        assert [s["sentid"] for s in image["sentences"]] == image["sentids"]
        assert (image["cocoid"] in held_out) == (image["split"] in {"val", "test"})
    assert {karpathy_split(scene) for scene in SCENES} == {"train", "restval", "val", "test"}


def test_snli_ve_lines(folder):
    stems = {p.stem for p in (folder / "images").iterdir()}
    pairs = Counter()
    for split in ("train", "dev", "test"):
        for line in (folder / f"snli_ve/snli_ve_{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row.keys() == {
                "annotator_labels", "captionID", "Flickr30K_ID", "gold_label", "pairID",
                "sentence1", "sentence2",
            }  # fmt: skip
            assert row["Flickr30K_ID"] in stems
            pairs[row["pairID"]] += 1
    assert len(pairs) == 60
    assert max(pairs.values()) == 1


THINGS = (
    Thing("circle", "red", "big", 1, 0, 0.2, 0.5),
    Thing("square", "blue", "small", 0, 2, 0.8, 0.2),
)


def test_captions_of_a_scene_by_hand():
    scene = Scene(1, 256, 256, 128, (0.0, 0.0), THINGS, None)
    assert make_captions(scene) == (
        "A big red circle at the left and a small blue square at the top right.",
        "A picture of a red circle and a blue square.",
        "A red circle to the left of a blue square.",
        "There are two shapes on a gray background.",
        "Two colored shapes.",
    )


def test_answers_agree_with_the_scene():
    scene = Scene(1, 256, 256, 128, (0.0, 0.0), THINGS, None)
    true = {
        "What color is the circle?": "red",
        "What color is the square?": "blue",
        "What shape is the red object?": "circle",
        "What shape is the blue object?": "square",
        "What color is the object on the left?": "red",
        "What color is the object on the right?": "blue",
        "What color is the object at the top?": "blue",
        "What color is the object at the bottom?": "red",
        "Is there a red circle?": "yes",
        "Is there a blue square?": "yes",
        "Is the red circle to the left of the blue square?": "yes",
        "Is the blue square to the left of the red circle?": "no",
        "How many shapes are there?": "2",
        "How many circles are there?": "1",
        "How many squares are there?": "1",
        "How many triangles are there?": "0",
        "How many stars are there?": "0",
        "Is the red object big or small?": "big",
        "Is the blue object big or small?": "small",
    }
    seen = {}
    for seed in range(200):
        for question in make_questions(scene, seed):
            seen[question.text] = question.answer
            assert len(question.answers) == 10
    no = {text for text in seen if re.match("Is there an? ", text)} - true.keys()
    assert {seen.pop(text) for text in no} == {"no"}
    assert seen == true


def leave_one_out_score(answer, answers):
    """The published VQA accuracy: the mean over ten subsets of nine of min(1, matches / 3)."""
    return np.mean([min(1, (answers[:i] + answers[i + 1 :]).count(answer) / 3) for i in range(10)])


def test_blind_majority_answers_score_at_most_forty_percent():
    content = vqa_files(SCENES, 0)
    majority = defaultdict(Counter)
    for split, score in (("train2014", False), ("val2014", True)):
        texts = {
            q["question_id"]: q["question"]
            for q in content[f"v2_OpenEnded_mscoco_{split}_questions.json"]["questions"]
        }
        scores = []
        for a in content[f"v2_mscoco_{split}_annotations.json"]["annotations"]:
            text, answers = texts[a["question_id"]], [x["answer"] for x in a["answers"]]
            if score:
                blind = majority[text].most_common(1)[0][0] if majority[text] else "yes"
                scores.append(leave_one_out_score(blind, answers))
            else:
                majority[text].update(answers)
    assert len(scores) > 1000
    assert 0.2 < np.mean(scores) < 0.4


def test_hypotheses_alone_do_not_tell_the_label():
    content = snli_ve_files(SCENES, 0)
    labels = defaultdict(Counter)
    for row in content["snli_ve_train.jsonl"]:
        labels[row["sentence2"]][row["gold_label"]] += 1
    held_out = [r for split in ("dev", "test") for r in content[f"snli_ve_{split}.jsonl"]]
    right = sum(
        bool(labels[r["sentence2"]])
        and labels[r["sentence2"]].most_common(1)[0][0] == r["gold_label"]
        for r in held_out
    )
    assert right / len(held_out) < 0.4
    counts = Counter(row["gold_label"] for row in content["snli_ve_train.jsonl"])
    total = sum(counts.values())
    for label in ("entailment", "neutral", "contradiction"):
        assert 0.28 < counts[label] / total < 0.38
    assert 0 < counts["-"] / total < 0.05


@pytest.mark.parametrize("scene", SCENES[:50])
def test_labels_follow_from_the_scene(scene):
    for pair in make_pairs(scene, 0):
        name = re.search(rf"({'|'.join(COLORS)}) \w+", pair.hypothesis)
        assert name
        unseen = "neutral" if scene.box else "contradiction"
        expected = "entailment" if scene.has(name[0]) else unseen
        assert pair.annotator_labels[0] == expected
        assert pair.gold_label in {expected, "-"}
        assert pair.premise in make_captions(scene)


def test_into_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_demo_data(Path(), 10, seed=0)
    assert len(list((tmp_path / "here" / "images").iterdir())) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


class TestRefused:
    def test_a_folder_that_holds_something(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("...")
        with refuses("E-DEMO-FOLDER", kind=UsageError):
            write_demo_data(tmp_path, 20, seed=0)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("images", [-1, 0, 9, 10**9])
    def test_numbers_of_images(self, tmp_path, images):
        with refuses("E-DEMO-IMAGES", "10 to 100000", kind=UsageError):
            write_demo_data(tmp_path / "d", images, seed=0)
        assert not (tmp_path / "d").exists()


def test_a_full_disk_is_told_with_the_name_of_the_folder_that_was_asked_for(tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_demo_data(tmp_path / "data", 10, seed=0)
    assert refused.value.filename == str(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
