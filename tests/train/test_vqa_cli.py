"""`clipfeat train vqa` and `clipfeat eval vqa` as typed, and answering one question."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import isolate, serving
from pictures import photograph
from refused import refuses
from stores import make_store
from vqa_world import FAST, grid, make_world, write_gqa, write_split, write_visual_genome

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.base.jsonio import write_json
from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.train import fit
from clipfeat.train.data.vocabulary import read_vocabulary
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask
from clipfeat.train.tasks.vqa_predict import answer, load_run

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"), train=60, val=20)


@pytest.fixture(scope="module")
def run(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the tiny world."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, "epochs=25"])
    fit(VqaTask(settings, store=world[0], data=world[1], device="cpu"), out)
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def other_store(folder: Path) -> Path:
    """Write a store of another backbone."""
    records = {"COCO_val2014_000000000004": grid(4)}
    return make_store(folder / "other.clipfeat", records, backbone={"model": "other"})


def test_a_run_folder_tells_the_whole_run(run: Path, world: tuple[Path, Path]) -> None:
    card = read(run / "settings.json")
    assert card["settings"]["epochs"] == 25
    assert card["store_digest"] == FeatureStore.open(world[0]).digest
    result = read(run / "result.json")
    assert (result["split"], result["n"], result["blind"]) == ("val", 60, False)
    assert result["by_question_type"].keys() == {"is the", "what colour"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line["score"] for line in lines if "score" in line]
    assert (len(scores), max(scores)) == (25, result["overall"])
    assert sum("loss" in line for line in lines) == 25 * 12  # 180 questions, 16 an update


@pytest.mark.slow
def test_features_beat_the_blind_twin(
    run: Path, world: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    sets = [f"--set={change}" for change in (*FAST, "epochs=25", "blind=true")]
    paths = ["--store", world[0], "--data", world[1], "--out", tmp_path / "blind"]
    code, out, err = typed("train", "vqa", *paths, *sets, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "overall" in out
    seeing, blind = read(run / "result.json"), read(tmp_path / "blind" / "result.json")
    assert (blind["blind"], blind["n"]) == (True, 60)
    assert seeing["overall"] > blind["overall"] + 25


def test_a_store_at_a_url_trains_and_evaluates_as_the_local_one(
    world: tuple[Path, Path], tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", "")  # which --cache sets
    sets = [f"--set={change}" for change in (*FAST, "epochs=1", "window_shards=2")]
    with serving(world[0].parent) as server:
        url = f"{server.url}/{world[0].name}"
        results = []
        for store, out in ((str(world[0]), "local"), (url, "remote")):
            paths = ["--store", store, "--data", world[1], "--out", tmp_path / out]
            paths += ["--cache", tmp_path / "cache"]
            code, _, err = typed("train", "vqa", *paths, *sets, "--device", "cpu")
            assert (code, len(err.splitlines())) == (0, store == url)  # how a URL is read
            results.append(read(tmp_path / out / "result.json"))
        predicted = [read(Path(result.pop("predictions"))) for result in results]
        assert (results[0], predicted[0]) == (results[1], predicted[1])
        assert read(tmp_path / "remote" / "settings.json")["store"] == url
        options = ["--split", "val", "--device", "cpu", "--json"]
        code, out, _ = typed("eval", "vqa", tmp_path / "remote", *options)  # on the run's own store
        assert code == 0
        assert json.loads(out)["overall"] == results[0]["overall"]


def test_where_eval_writes_is_checked_before_it_computes(
    run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _, mode: mode == os.R_OK)
    monkeypatch.setattr("clipfeat.train.tasks.vqa.predict_with", None)
    code, _, err = typed("eval", "vqa", run, "--split", "val")
    assert (code, err.split()[-1]) == (2, "[E-PATH-WRITE]")


def test_eval_gives_the_score_of_its_predictions(run: Path, typed: Typed) -> None:
    code, out, err = typed("eval", "vqa", run, "--split", "val", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == read(run / "result.json") | {"predictions": str(run / "predictions_val.json")}
    assert read(run / "predictions_val.json") == read(run / "predictions.json")

    # Nine of ten annotators gave the world's answer, so right is 1 and wrong is 0.
    data = Path(read(run / "settings.json")["data"])
    truth = read(data / "v2_mscoco_val2014_annotations.json")["annotations"]
    said = {record["question_id"]: record["answer"] for record in read(run / "predictions.json")}
    assert len(said) == len(truth) == 60
    right = sum(said[record["question_id"]] == record["multiple_choice_answer"] for record in truth)
    assert result["overall"] == round(100 * right / 60, 2)


def test_a_split_without_annotations_gets_predictions_only(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    write_split(tmp_path, "test2015", [3], annotated=False)
    words = ["eval", "vqa", run, "--split", "test", "--data", tmp_path, "--device", "cpu"]
    questions = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    code, out, err = typed(*words)
    assert (code, out) == (1, "")
    assert "without features, such as COCO_test2015_000000000003 or 000000000003" in err
    questions.write_text(
        questions.read_text().replace('"image_id": 3', '"image_id": "COCO_train2014_000000000003"')
    )
    code, out, err = typed(*words, "--json")
    assert (code, err) == (
        0,
        "split test has no annotations: predictions are written, not scored\n",
    )
    result = json.loads(out)
    assert (result["n"], result["overall"]) == (3, None)
    answers = read(run / "predictions_test.json")
    assert [sorted(record) for record in answers] == [["answer", "question_id"]] * 3
    assert [record["question_id"] for record in answers] == [30, 31, 32]


def test_a_store_of_other_images_will_do_and_one_of_other_features_not(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    write_split(tmp_path, "test2015", [3], annotated=False)
    records = {"COCO_test2015_000000000003": grid(3)}
    words = ["eval", "vqa", run, "--split", "test", "--data", tmp_path, "--device", "cpu"]
    made = make_store(tmp_path / "a.clipfeat", records, dtype="float32")
    code, _, err = typed(*words, "--store", made)
    assert (code, err) == (
        0,
        "split test has no annotations: predictions are written, not scored\n",
    )
    other = make_store(tmp_path / "b.clipfeat", records, recipe={"name": "other", "vector": None})
    code, out, err = typed(*words, "--store", other)
    assert (code, out) == (2, "")
    assert ": recipe.name was 'test' and is 'other'; extract these images as those of" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--store": "nowhere"}, 1, "nowhere does not exist"),
        ({"--data": "nowhere"}, 2, "nowhere is not a folder; --data takes the folder"),
        ({"--set": "epoch=3"}, 2, "no setting is named 'epoch'; did you mean epochs"),
        ({"--set": "dataset=coco"}, 2, "dataset must be one of vqa2, gqa; got 'coco'"),
        ({"--set": "skip_missing=-1"}, 2, "skip_missing must be at least 0; got -1"),
        ({"--set": "train_split=train+vg"}, 2, "has no question_answers.json"),
        ({"--set": "answer_list=nowhere"}, 2, "answer_list nowhere: not a readable list"),
        ({"--set": "model.glove=nowhere"}, 2, "model.glove nowhere: cannot be read"),
        (
            {"--set": "train_split=mini"},
            2,
            "has no questions_mini.json, the questions of split 'mini'",
        ),
        ({"--set": "min_answer_count=999"}, 1, "pass --set min_answer_count=1"),
        (
            {"--device": "cuda"},
            2,
            "torch finds no GPU on this machine; pass --device cpu [E-GPUS-ABSENT]",
        ),
    ],
)
def test_mistakes_get_one_line(
    world: tuple[Path, Path],
    tmp_path: Path,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "run"
    options = {"--store": world[0], "--data": world[1], "--out": out, "--device": "cpu"}
    words = [word for option in (options | changes).items() for word in option]
    got, stdout, stderr = typed("train", "vqa", *words)
    assert (got, stdout) == (code, "")
    assert message in stderr
    assert stderr.startswith("Error: ")
    assert stderr.count("\n") == 1
    assert not out.exists()


def test_eval_of_no_run_gets_one_line(tmp_path: Path, typed: Typed) -> None:
    code, _, err = typed("eval", "vqa", tmp_path, "--split", "val")
    assert (code, err) == (
        2,
        f"Error: {tmp_path} is not a run folder: it has no settings.json [E-RUN-FOLDER]\n",
    )


def test_one_question_is_answered_as_in_its_split(run: Path, world: tuple[Path, Path]) -> None:
    store, trained = FeatureStore.open(world[0]), load_run(run)
    said = {record["question_id"]: record["answer"] for record in read(run / "predictions.json")}
    for image_id in range(61, 81):
        found = answer(trained, store, f"COCO_val2014_{image_id:012}", "What colour is the shape?")
        assert found.answer == said[10 * image_id]
        assert 0 <= found.score <= 1
        assert found.attention.shape == grid(image_id).shape[:2]
        assert found.attention.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(StoreError, match="has no image id 'nothing'"):
        answer(trained, store, "nothing", "Why?")


def ask(run: Path, image_id: str, question: str, *more: object) -> list[object]:
    words = ["predict", "vqa", run, "--image-id", image_id, "--question", question]
    return [*words, "--device", "cpu", *more]


def test_predict_says_what_answer_says_and_draws_it(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    image_id, question = "COCO_val2014_000000000061", "What colour is the shape?"
    store = FeatureStore.open(read(run / "settings.json")["store"])
    expected = answer(load_run(run), store, image_id, question)
    code, out, err = typed(*ask(run, image_id, question, "--json"))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == {
        "image_id": image_id,
        "question": question,
        "answer": expected.answer,
        "score": expected.score,
        "top": [list(pair) for pair in expected.top],
        "grid": list(grid(61).shape[:2]),
        "attention": expected.attention.tolist(),
        "picture": str(run / "answer.png"),
    }
    assert expected.top[0] == (expected.answer, expected.score)
    assert len(expected.top) == 5
    assert [score for _, score in expected.top] == sorted((s for _, s in expected.top))[::-1]
    assert (run / "answer.png").read_bytes().startswith(b"\x89PNG")

    photograph(0, 60, 40).save(tmp_path / "scene.jpg")
    more = ("--image", tmp_path / "scene.jpg", "--out", tmp_path / "lit.png")
    code, out, err = typed(*ask(run, image_id, question, *more))
    assert (code, err) == (0, "")
    assert out.startswith(f"{expected.answer}  (")
    assert out.endswith(f"{tmp_path / 'lit.png'}\n")
    assert (tmp_path / "lit.png").read_bytes() != (run / "answer.png").read_bytes()


def test_predict_says_when_it_knows_no_word(run: Path, tmp_path: Path, typed: Typed) -> None:
    more = ("--json", "--out", tmp_path / "a.png")
    code, out, err = typed(*ask(run, "COCO_val2014_000000000061", "Warum nur?", *more))
    assert code == 0
    assert err == "the model knows no word of the question; its answer depends on the image alone\n"
    assert json.loads(out)["question"] == "Warum nur?"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["61", "Why?"], 1, "has no image id '61'; ids here look like 'COCO_"),
        (["COCO_val2014_000000000061", " "], 2, "--question is empty"),
        (["COCO_val2014_000000000061", "\udcff"], 2, "--question must be UTF-8; got"),
        (["COCO_val2014_000000000061", "Why?", "--image", "no.jpg"], 2, "no.jpg is not a readable"),
        (["COCO_val2014_000000000061", "Why?", "--store", "nowhere"], 1, "nowhere does not exist"),
    ],
)
def test_predict_tells_mistakes_in_one_line(
    run: Path, tmp_path: Path, typed: Typed, words: list[str], code: int, message: str
) -> None:
    got, out, err = typed(*ask(run, *words, "--out", tmp_path / "a.png"))
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_predict_needs_a_checkpoint_and_the_store_of_the_run(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    other = other_store(tmp_path)
    _, _, err = typed(*ask(run, "COCO_val2014_000000000061", "Why?", "--store", other))
    assert err.startswith("Error: the run was trained on features unlike those of ")
    assert ": backbone." in err
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "settings.json").write_text((run / "settings.json").read_text())
    _, _, err = typed(*ask(tmp_path / "new", "COCO_val2014_000000000061", "Why?"))
    assert err.endswith("[E-RUN-BEST]\n")


def test_compare_as_typed(run: Path, tmp_path: Path, typed: Typed) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(runs):
        folder.mkdir()
        (folder / "settings.json").write_text((run / "settings.json").read_text())
        scores = {"split": "val", "ids": [1, 2], "images": ["a", "b"], "scores": [50 * number] * 2}
        (folder / "scores.json").write_text(json.dumps(scores))
    code, out, err = typed("compare", *runs)
    assert (code, err) == (0, "")
    assert "+50.00 *" in out
    code, out, err = typed("compare", *runs, "--json")
    assert (code, err) == (0, "")
    assert [entry["difference"] for entry in json.loads(out)] == [None, 50]
    code, out, err = typed("compare", runs[0])
    assert (code, out) == (2, "")
    told = f"comparing takes at least two different runs; got {runs[0]}"
    assert err == f"Error: {told} [E-COMPARE-RUNS]\n"


def test_one_question_needs_the_store_of_the_run(run: Path, tmp_path: Path) -> None:
    other = FeatureStore.open(other_store(tmp_path))
    with refuses("E-RUN-FEATURES", "backbone", kind=UsageError):
        answer(load_run(run), other, "COCO_val2014_000000000004", "Why?")


def test_scores_of_each_question_are_kept(run: Path) -> None:
    table, result = read(run / "scores.json"), read(run / "result.json")
    assert (table["split"], result["skipped"]) == ("val", 0)
    assert table["ids"] == [10 * image + number for image in range(61, 81) for number in range(3)]
    assert table["images"][:4] == [*["COCO_val2014_000000000061"] * 3, "COCO_val2014_000000000062"]
    assert set(table["scores"]) <= {0, 100}
    assert round(sum(table["scores"]) / 60, 2) == result["overall"]


def test_questions_without_features_are_answered_by_nothing(
    run: Path, world: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    write_split(tmp_path, "val2014", [61, 62, 999])  # there is no image 999
    words = ["eval", "vqa", run, "--split", "val", "--data", tmp_path, "--device", "cpu"]
    for allowed in ([], ["--skip-missing", "2"]):
        code, out, err = typed(*words, *allowed)
        assert (code, out) == (1, "")
        assert err == (
            "Error: 3 of 9 questions of split 'val' ask about 1 image without features, "
            "such as COCO_val2014_000000000999 or 000000000999; extract these images into the "
            "store, or pass --skip-missing 3 [E-IMAGES-MISSING]\n"
        )
    code, out, err = typed(*words, "--skip-missing", "3")
    assert (code, err.count("\n")) == (0, 1)
    assert "\n3 questions skipped, about images without features\n" in out
    result = json.loads(typed(*words, "--skip-missing", "3", "--json")[1])
    said = read(run / "predictions_val.json")
    assert [record["answer"] for record in said[6:]] == [""] * 3
    assert (result["n"], result["skipped"]) == (9, 3)
    right = {r["question_id"]: r["answer"] for r in read(run / "predictions.json")}
    assert all(record["answer"] == right[record["question_id"]] for record in said[:6])
    assert result["overall"] <= 66.67


def test_training_leaves_out_questions_without_features(
    world: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    write_split(tmp_path, "train2014", [1, 2, 3, 998])
    write_split(tmp_path, "val2014", [61, 999])
    out = tmp_path / "run"
    words = ["train", "vqa", "--store", world[0], "--data", tmp_path, "--out", out, "--json"]
    sets = [f"--set={change}" for change in (*FAST, "epochs=1")]
    code, stdout, err = typed(*words, *sets, "--skip-missing", "3", "--device", "cpu")
    assert code == 0, err
    assert [line.split(" ask")[0] for line in err.splitlines()] == [
        "3 of 12 questions of split 'train'",
        "3 of 6 questions of split 'val'",
    ]
    assert (json.loads(stdout)["n"], json.loads(stdout)["skipped"]) == (6, 3)
    table = read(out / "scores.json")
    assert table["images"][-1] == "COCO_val2014_000000000999"
    assert table["scores"][3:] == [0, 0, 0]
    assert read(out / "settings.json")["settings"]["skip_missing"] == 3


def test_gqa_is_trained_and_scored(world: tuple[Path, Path], tmp_path: Path, typed: Typed) -> None:
    store, _ = make_world(tmp_path, train=6, val=0, name="VG_{}")
    for name, images in (("train_balanced", [1, 2, 3, 4]), ("val_balanced", [5, 6])):
        write_gqa(tmp_path / f"{name}_questions.json", images)
    splits = ("dataset=gqa", "train_split=train_balanced", "eval_split=val_balanced")
    sets = [f"--set={change}" for change in (*FAST, "epochs=2", *splits)]
    out = tmp_path / "run"
    words = ["--store", store, "--data", tmp_path, "--out", out, "--device", "cpu"]
    code, stdout, err = typed("train", "vqa", *words, *sets, "--json")
    assert (code, err) == (0, "")
    result = json.loads(stdout)
    assert (result["n"], result["by_answer_type"].keys()) == (6, {"binary", "open"})
    assert result["consistency"] is None or 0 <= result["consistency"] <= 100
    table = read(out / "scores.json")
    assert (table["ids"][0], table["images"][0]) == ("50", "VG_5")
    code, stdout, err = typed("eval", "vqa", out, "--split", "val_balanced", "--device", "cpu")
    assert (code, err) == (0, "")
    predictions = out / "predictions_val_balanced.json"
    assert read(predictions)[0].keys() == {"questionId", "prediction"}
    questions = tmp_path / "val_balanced_questions.json"
    scored = typed("eval", "vqa", "--predictions", predictions, "--questions", questions, "--json")
    assert json.loads(scored[1]) == {key: result[key] for key in json.loads(scored[1])}


def task_of(world: tuple[Path, Path], *changes: str) -> VqaTask:
    """Return a task, which has made its vocabulary and its model."""
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *changes])
    return VqaTask(settings, store=world[0], data=world[1], device="cpu")


def test_classes_are_counted_over_the_answer_split(tmp_path: Path) -> None:
    """10 questions of train and 3 of val are answered by "red"."""
    world = make_world(tmp_path, train=24, val=9)
    alone = task_of(world, "min_answer_count=12").vocabulary.answers
    both = ("min_answer_count=12", "answer_split=train+val")
    assert set(task_of(world, *both).vocabulary.answers) - set(alone) == {"red"}
    (world[1] / "answers").write_text("no")
    listed = task_of(world, *both, f"answer_list={world[1] / 'answers'}")
    assert listed.vocabulary.answers == ("no",)

    names = {file.name for file in task_of(world, *both, "eval_split=").data_files}
    assert "v2_mscoco_val2014_annotations.json" in names
    (world[1] / "v2_mscoco_val2014_annotations.json").unlink()
    with refuses("E-ANSWERS-SPLIT", "train+val", "val2014", "--set answer_split=", kind=UsageError):
        task_of(world, *both, "eval_split=")


@pytest.mark.parametrize(
    ("changes", "suggested"),
    [
        (("model=pythia", "model.joint=8", "model.image_head=8"), "glove.6B.300d.txt"),
        (("model=mcan", "model.layers=1"), "glove.840B.300d.txt"),
        (("model=movie_mcan", "model.layers=1"), "glove.6B.300d.txt"),
        (("model=updn_large",), "glove.6B.300d.txt"),
        (("model=updn", "model.embedding=128"), ""),
        (("model=updn",), ""),  # of these two no run is published
        (("model=attentive_probe",), ""),
    ],
)
def test_the_published_start_of_words_is_named(
    world: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...],
    suggested: str,
) -> None:
    task_of(world, "model.embedding=300", *changes, "model.hidden=16")
    told = f"published runs started from {suggested}: --set model.glove={suggested}\n"
    err = capsys.readouterr().err
    assert err.endswith(told) if suggested else "glove" not in err


def test_word_vectors_are_looked_for_before_questions(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    with refuses("E-GLOVE-FILE", "none.txt", kind=UsageError):
        task_of((world[0], tmp_path / "none"), f"model.glove={tmp_path / 'none.txt'}")


def test_training_on_joined_parts_with_glove_and_a_list_of_answers(
    tmp_path: Path, typed: Typed
) -> None:
    store, data = make_world(tmp_path, train=4, val=2)
    write_visual_genome(data, [1, 2])
    (tmp_path / "answers.txt").write_text("<unk>\nyes\nno\ngreen\n")
    (tmp_path / "glove.txt").write_text("the" + " 1" * 16 + "\nshape" + " 2" * 16 + "\n")
    changes = (
        *(*FAST, "epochs=1", "train_split=train+val+vg"),
        *(f"answer_list={tmp_path / 'answers.txt'}", f"model.glove={tmp_path / 'glove.txt'}"),
    )
    sets = [f"--set={change}" for change in changes]
    out = tmp_path / "run"
    words = ["--store", store, "--data", data, "--out", out, "--device", "cpu", *sets]
    code, _, err = typed("train", "vqa", *words)
    assert code == 2
    assert "eval_split val shares 6 questions with train_split train+val+vg" in err
    words += ["--set", "eval_split="]
    code, _, err = typed("train", "vqa", *words)
    assert code == 1
    assert "2 of 20 questions of split 'train+val+vg' ask about 2 images" in err
    assert "such as VG_1 or 1, VG_2 or 2" in err
    code, said, err = typed("train", "vqa", *words, "--skip-missing", "2")
    assert (code, said) == (0, "trained to epoch 1; no eval_split, so that nothing is scored\n")
    assert not (out / "scores.json").exists()
    code, said, _ = typed("eval", "vqa", out, "--split", "val", "--json", "--device", "cpu")
    assert (code, json.loads(said)["n"]) == (0, 6)
    words_known = len(read(out / "vocabulary.json")["words"])
    assert err.splitlines()[-1] == f"glove.txt: vectors of 2 of {words_known} words"
    assert read(out / "vocabulary.json")["answers"] == ["yes", "no", "green"]
    files = read(out / "settings.json")["data_files"]
    assert {"answers.txt", "glove.txt", "question_answers.json"} < files.keys()
    (tmp_path / "answers.txt").write_text("yes\nno\n")
    code, _, err = typed("train", "vqa", *words, "--skip-missing", "2")
    assert code == 2
    assert "holds a run with answers.txt" in err


@pytest.mark.parametrize("answers", [[1], "yes", ["\ud800"], [["yes"]]])
def test_a_vocabulary_that_is_no_list_of_texts_is_refused(tmp_path: Path, answers: Any) -> None:
    path = tmp_path / "vocabulary.json"
    write_json(path, {"words": ["the"], "answers": answers})
    with pytest.raises(ClipfeatError, match=r"vocabulary\.json: (words and )?answers must be"):
        read_vocabulary(path)
