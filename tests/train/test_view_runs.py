"""Trained runs in the explorer, against the functions of the command line and files made by hand."""

import json

import caption_world
import numpy as np
import pytest
import ve_world
import vqa_world
from explored import Window, opened_browser
from explorers import client_of, started
from playwright.sync_api import expect
from stores import make_store

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train import fit
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.captioning.predict import CaptionRequest, predict_captions
from clipfeat.train.tasks.entailment import EntailmentTask
from clipfeat.train.tasks.settings import VeSettings, VqaSettings
from clipfeat.train.tasks.vqa import VqaTask
from clipfeat.train.tasks.vqa_predict import ask

LOADING = 120_000  # milliseconds: the server imports torch and reads a model
IMAGE = f"COCO_val2014_{25:012}"


@pytest.fixture(scope="module")
def vqa(tmp_path_factory):
    """A store and two runs of it, of which the second is blind."""
    folder = tmp_path_factory.mktemp("vqa")
    store, data = vqa_world.make_world(folder, train=24, val=8)
    runs = []
    for name, changes in (("seeing", ["epochs=3"]), ("blind", ["epochs=1", "blind=true"])):
        settings = load_settings(VqaSettings, config=None, assignments=[*vqa_world.FAST, *changes])
        fit(VqaTask(settings, store=store, data=data, device="cpu"), folder / name)
        runs.append(folder / name)
    return store, runs, data


class TestVqa:
    def test_answers_and_attention_are_those_of_the_command(self, vqa, tmp_path):
        store, runs, _ = vqa
        client = client_of(store, runs=runs)
        listed = client.get("session")["runs"]
        assert [(r["key"], r["task"], r["store"], r["splits"]) for r in listed] == [
            ("r0", "vqa", "a", ["val"]), ("r1", "vqa", "a", ["val"]),
        ]  # fmt: skip
        question = "What colour is the shape?"
        found = client.get("answer", run="r0", id=IMAGE, question=question)
        expected = ask(
            runs[0], image_id=IMAGE, question=question, image=None, store=None,
            out=tmp_path / "a.png", device="cpu",
        )  # fmt: skip
        assert [each["answer"] for each in found["answers"]] == [a for a, _ in expected["top"]]
        scores = [each["score"] for each in found["answers"]]
        np.testing.assert_allclose(scores, [score for _, score in expected["top"]], atol=1e-4)
        (attention,) = found["attention"]
        np.testing.assert_allclose(attention, np.ravel(expected["attention"]), atol=1e-5)
        assert sum(attention) == pytest.approx(1, abs=1e-4)

    def test_examples_are_sorted_by_how_much_two_runs_differ(self, vqa):
        store, runs, data = vqa
        client = client_of(store, runs=runs)
        found = client.get("compare", runs=["r0", "r1"], count=500)
        one, two = (json.loads((run / "scores.json").read_text()) for run in runs)
        score = [dict(zip(each["ids"], each["scores"], strict=True)) for each in (one, two)]
        file = data / "v2_OpenEnded_mscoco_val2014_questions.json"
        texts = {q["question_id"]: q["question"] for q in json.loads(file.read_text())["questions"]}
        assert found["n"] == len(found["examples"]) == len(texts)
        gaps = []
        for each in found["examples"]:
            assert each["scores"] == [s[each["example"]] for s in score]
            assert each["text"] == texts[each["example"]]
            assert each["id"] in FeatureStore.open(store)
            gaps.append(abs(each["scores"][0] - each["scores"][1]))
        assert gaps == sorted(gaps, reverse=True)
        assert found["differ"] == sum(gap > 0 for gap in gaps)
        part = client.get("compare", runs=["r0", "r1"], start=3, count=2)
        assert part["examples"] == found["examples"][3:5]
        turned = client.get("compare", runs=["r1", "r0"], count=1)["examples"][0]
        assert turned["scores"] == found["examples"][0]["scores"][::-1]

    def test_without_the_data_examples_have_no_text(self, vqa, tmp_path):
        store, runs, _ = vqa
        moved = []
        for run in runs:
            folder = tmp_path / run.name
            folder.mkdir()
            (folder / "scores.json").write_bytes((run / "scores.json").read_bytes())
            card = json.loads((run / "settings.json").read_text())
            card["data"] = str(tmp_path / "gone")
            (folder / "settings.json").write_text(json.dumps(card))
            moved.append(folder)
        client = client_of(store, runs=moved)
        found = client.get("compare", runs=["r0", "r1"])
        assert {each["text"] for each in found["examples"]} == {""}
        # There is no checkpoint in these folders either.
        assert client.refused("answer", 400, run="r0", id=IMAGE, question="What?") == "E-RUN-BEST"

    def test_what_cannot_be_asked_is_said(self, vqa):
        store, runs, _ = vqa
        client = client_of(store, runs=runs[:1])
        wanted = {"run": "r0", "id": IMAGE}
        assert client.refused("answer", 404, run="r1", id=IMAGE, question="x") == "E-VIEW-RUN"
        assert client.refused("answer", 400, **wanted, question=" ") == "E-VIEW-TEXT"
        assert client.refused("answer", 400, **wanted, question="x" * 301) == "E-VIEW-QUERY"
        assert client.refused("answer", 404, run="r0", id="x", question="x") == "E-STORE-NO-ID"
        assert client.refused("caption", 400, **wanted) == "E-VIEW-TASK"
        assert client.refused("entail", 400, **wanted, hypothesis="x") == "E-VIEW-TASK"
        assert client.refused("compare", 400, runs=["r0", "r0"]) == "E-VIEW-RUNS"
        assert client.refused("compare", 400, runs=["r0"]) == "E-VIEW-RUNS"

    def test_a_run_of_other_features_is_refused_at_the_start(self, vqa, tmp_path):
        _, runs, _ = vqa
        other = make_store(tmp_path / "other", {"i": np.ones((1, 1, 4))})
        for folder, code in ((runs[0], "E-VIEW-RUN-STORE"), (tmp_path, "E-RUN-FOLDER")):
            with pytest.raises(UsageError) as error:
                client_of(other, runs=[folder])
            assert error.value.code == code

    def test_a_run_finds_its_store_among_several(self, vqa, tmp_path):
        store, runs, _ = vqa
        other = make_store(tmp_path / "other", {"i": np.ones((1, 1, 4))})
        assert client_of(other, store, runs=runs[:1]).get("session")["runs"][0]["store"] == "b"


@pytest.fixture(scope="module")
def ve(tmp_path_factory):
    """A store, a run of visual entailment, and its data."""
    folder = tmp_path_factory.mktemp("ve")
    store, data = ve_world.make_world(folder, train=20, dev=6)
    settings = load_settings(VeSettings, config=None, assignments=[*ve_world.FAST, "epochs=2"])
    fit(EntailmentTask(settings, store=store, data=data, device="cpu"), folder / "run")
    return store, folder / "run", data


def test_an_entailment_has_three_chances(ve):
    store, run, data = ve
    client = client_of(store, runs=[run])
    rows = [json.loads(line) for line in (data / "snli_ve_dev.jsonl").read_text().splitlines()]
    lines = (run / "predictions.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    label_of = {each["pairID"]: next(v for k, v in each.items() if k != "pairID") for each in said}
    for row in rows[:6]:
        found = client.get("entail", run="r0", id=row["Flickr30K_ID"], hypothesis=row["sentence2"])
        chances = found["chances"]
        assert chances.keys() == {"entailment", "neutral", "contradiction"}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-3)
        assert max(chances, key=lambda k: chances[k]) == label_of[row["pairID"]]
        assert sum(found["attention"][0]) == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A store, a run of captioning, and an image."""
    folder = tmp_path_factory.mktemp("captioned")
    world = caption_world.make_world(folder, train=12, val=2, test=8)
    caption_world.train_world(world, folder / "run", "epochs=4", stages=("xe",))
    return world[0], folder / "run", caption_world.name_of(18, "test")


def test_a_caption_comes_word_by_word(captioned):
    store, run, image = captioned
    client = client_of(store, runs=[run])
    found = client.get("caption", run="r0", id=image)
    (expected,) = predict_captions(
        run, [image], CaptionRequest(), listed=None, out=None, store=None, device="cpu"
    )
    assert " ".join(each["word"] for each in found["words"]) == expected.captions[0]
    cells = int(FeatureStore.open(store).shapes([image]).prod())
    for each in found["words"]:
        assert len(each["attention"]) == cells
        assert sum(each["attention"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_page_shows_what_the_runs_say(vqa, ve, captioned):
    """The whole way in Chromium: a question to two runs, a hypothesis, a caption, a comparison."""
    stores = (vqa[0], ve[0], captioned[0])
    runs = [*vqa[1], ve[1], captioned[1]]
    question, hypothesis = "What colour is the shape?", "a red shape"
    client = client_of(*stores, runs=runs)
    answers = client.get("answer", run="r0", id=IMAGE, question=question)["answers"]
    premise = json.loads((ve[2] / "snli_ve_dev.jsonl").read_text().splitlines()[0])["Flickr30K_ID"]
    chances = client.get("entail", run="r2", id=premise, hypothesis=hypothesis)["chances"]
    words = client.get("caption", run="r3", id=captioned[2])["words"]
    options = [word for run in runs for word in ("--run", run)]
    with (
        started(*stores, *options, "--no-browser", "--port", "0") as (_, port, token),
        opened_browser(f"http://127.0.0.1:{port}/?token={token}") as context,
    ):
        window = Window(context.new_page(), f"http://127.0.0.1:{port}")
        page = window.page
        window.open(store="a", id=IMAGE, beside="none", side="runs", question=question)
        first = page.get_by_role("group", name=f"Run {runs[0]}")
        expect(first.locator(".chances li").first).to_contain_text(
            f"{answers[0]['answer']}{answers[0]['score']:.2f}", timeout=LOADING
        )
        first.get_by_role("link", name="show").click()
        window.waits_for(show="attention:r0:0")
        expect(window.figure("a").locator(".legend")).to_contain_text("attention")
        window.photograph("real_answers")
        window.open(store="b", id=premise, beside="none", side="runs", hypothesis=hypothesis)
        judged = page.get_by_role("group", name=f"Run {runs[2]}")
        for label, chance in chances.items():
            expect(judged).to_contain_text(f"{label}{chance:.2f}", timeout=LOADING)
        window.open(store="c", id=captioned[2], beside="none", side="runs", caption="1")
        spoken = page.get_by_role("group", name=f"Run {runs[3]}").locator(".words")
        sentence = " ".join(each["word"] for each in words)
        expect(spoken).to_have_text(sentence, use_inner_text=True, timeout=LOADING)
        spoken.get_by_role("link").first.click()
        window.waits_for(show="attention:r3:0")
        expect(window.figure("c").locator(".legend")).to_contain_text("attention")
        window.open(store="a", id=IMAGE, beside="none", side="compare")
        found = client.get("compare", runs=["r0", "r1"], count=50)
        rows = page.get_by_role("table").locator("tbody tr")
        expect(rows).to_have_count(len(found["examples"]))
        expect(rows.first).to_contain_text(found["examples"][0]["text"])
        assert window.faults == []


class TestDiff:
    def test_records_of_two_stores(self, tmp_path):
        random = np.random.default_rng(0)
        grids = {k: random.normal(size=(2, 2, 4)).astype(np.float16) for k in "ij"}
        changed = {**grids, "j": (grids["j"] + np.float16(0.5)).astype(np.float16)}
        client = client_of(make_store(tmp_path / "a", grids), make_store(tmp_path / "b", changed))
        same = client.get("diff", id="i")
        assert (same["same"], same["largest"], same["relative_error"]) == (True, 0, 0)
        assert same["cosine"] == pytest.approx([1] * 4)
        found = client.get("diff", id="j")
        x, y = (g["j"].reshape(4, 4).astype(float) for g in (grids, changed))
        assert found["same"] is False
        assert found["largest"] == pytest.approx(np.abs(x - y).max())
        expected = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, y, strict=True)
        ]
        assert found["cosine"] == pytest.approx(expected, abs=1e-5)
        assert found["relative_error"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y))

    def test_other_grids_and_other_channels_say_why(self, tmp_path):
        one = make_store(tmp_path / "a", {"i": np.ones((2, 2, 4)), "j": np.ones((2, 2, 4))})
        two = make_store(tmp_path / "b", {"i": np.ones((3, 2, 4))})
        three = make_store(tmp_path / "c", {"i": np.ones((2, 2, 8))})
        found = client_of(one, two).get("diff", id="i")
        assert (found["cosine"], found["shape"]) == (None, [[2, 2], [3, 2]])
        assert "2x2 and 3x2" in found["why"]
        assert "4 and 8" in client_of(one, three).get("diff", id="i")["why"]
        assert client_of(one, two).refused("diff", 404, id="j") == "E-STORE-NO-ID"
        assert client_of(one).refused("diff", 400, id="i") == "E-VIEW-STORES"
