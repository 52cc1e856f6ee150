"""`clipfeat corpus` as typed, on the data sets' own files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus_world import (
    region,
    write,
    write_captions,
    write_gqa,
    write_regions,
    write_visual_genome,
    write_vqa,
)
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.demo.write import write_demo_data
from clipfeat.train.data import corpus as write_module
from clipfeat.train.data.corpus import write_corpus
from clipfeat.train.data.corpus_sources import Sources, read_held_out
from clipfeat.train.data.lxmert import find_corpus, read_sentences
from clipfeat.train.data.vqa_files import read_questions

Typed = Callable[..., tuple[int, str, str]]
ONE, TWO, THREE = (
    *("COCO_train2014_000000000001", "COCO_val2014_000000000002"),
    "COCO_val2014_000000000003",
)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(
        write_captions(tmp_path / "captions"),
        write_vqa(tmp_path / "vqa"),
        write_visual_genome(tmp_path / "vg"),
        write_gqa(tmp_path / "gqa"),
    )


def options(sources: Sources) -> list[object]:
    return [
        *("--captions", sources.captions, "--vqa", sources.vqa),
        *("--visual-genome", sources.visual_genome, "--gqa", sources.gqa),
    ]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_four_data_sets_become_four_files(
    sources: Sources, tmp_path: Path, typed: Typed
) -> None:
    (tmp_path / "list").write_text("2\n")
    out = tmp_path / "out"
    code, printed, err = typed("corpus", *options(sources), "--held-out", tmp_path / "list",
                               "--out", out)  # fmt: skip
    assert code == 0, err
    assert [line.split() for line in printed.splitlines()] == [
        ["file", "images", "sentences", "questions"],
        ["mscoco_train.json", "1", "5", "3"],
        ["mscoco_nominival.json", "1", "4", "3"],
        ["mscoco_minival.json", "1", "3", "3"],
        ["vgnococo.json", "1", "2", "2"],
    ]
    assert err.splitlines() == [
        f"{sources.visual_genome} has no region_descriptions.json: the corpus gets no region "
        "captions, which are 5.4 of the 9.2 million sentences of LXMERT's files",
        "held out: 1 images of COCO, in mscoco_minival.json and nowhere else",
        "left out: 2 sentences about 1 images of Visual Genome that are COCO's, because neither "
        "captions nor VQA v2's questions tell their part of it; pass --captions or --vqa, or both "
        "completely",
        "left out: 1 blank sentences",
    ]
    man, grass = {"A man": 1.0}, {"on grass": 1.0}
    assert read(out / "mscoco_train.json") == [
        {
            "img_id": ONE,
            "sentf": {
                "mscoco": ["Cat 1.", "Grass 1."],
                "vqa": ["Is it 1?"],
                "visual7w": ["Where is 1?"],
                "gqa": ["Who is 1?"],
            },
            "labelf": {"vqa": [{"yes": 1.0}], "visual7w": [grass], "gqa": [man]},
        }
    ]
    (held_out,) = read(out / "mscoco_minival.json")
    assert held_out["img_id"] == TWO
    assert held_out["sentf"] == {
        "vqa": ["What is 2?"],
        "visual7w": ["Where is 2?"],
        "gqa": ["Who is 2?"],
    }
    # The VQA accuracy of an answer that 7, 2 and 1 of ten people gave.
    assert held_out["labelf"]["vqa"] == [pytest.approx({"dog": 1.0, "puppy": 0.6, "cat": 0.3})]
    (other,) = read(out / "vgnococo.json")
    assert other == {
        "img_id": "103",
        "sentf": {"visual7w": ["Where is None?"], "gqa": ["Who is None?"]},
        "labelf": {"visual7w": [grass], "gqa": [man]},
    }
    for name in ("mscoco_train", "mscoco_nominival", "vgnococo"):
        assert TWO not in (out / f"{name}.json").read_text()
        assert "is 2?" not in (out / f"{name}.json").read_text()


def test_numbers_written_as_texts_are_the_same_images(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("2\n")
    as_numbers = write_corpus(sources, tmp_path / "numbers", tmp_path / "list")
    of_vqa = "vqa/v2_OpenEnded_mscoco_val2014_questions.json"
    for name in (of_vqa, "captions/captions_val2014.json", "vg/image_data.json"):
        text = re.sub(r'"(image_id|coco_id)": (\d+)', r'"\1": "\2"', (tmp_path / name).read_text())
        (tmp_path / name).write_text(text)
    as_texts = write_corpus(sources, tmp_path / "texts", tmp_path / "list")
    assert as_texts.files == as_numbers.files
    for path in (tmp_path / "numbers").glob("*.json"):
        ours = read(tmp_path / "texts" / path.name)
        if path.name.startswith("questions"):
            for record in ours["questions"]:
                record["image_id"] = int(record["image_id"])
        assert ours == read(path), path.name


def test_ids_may_be_the_names_of_the_files(sources: Sources, tmp_path: Path) -> None:
    """As in files that users make themselves, and in COCO 2017's names."""
    (tmp_path / "list").write_text("000000000002.jpg\n")
    as_numbers = write_corpus(sources, tmp_path / "numbers", tmp_path / "list")
    for name, start in (
        ("vqa/v2_OpenEnded_mscoco_val2014_questions.json", "COCO_val2014_"),
        ("captions/captions_val2014.json", ""),
    ):
        text = (tmp_path / name).read_text()
        text = re.sub(r'"image_id": (\d)\b', rf'"image_id": "{start}00000000000\1"', text)
        assert f'"{start}00000000000' in text
        (tmp_path / name).write_text(text)
    as_names = write_corpus(sources, tmp_path / "names", tmp_path / "list")
    assert as_names.files == as_numbers.files
    for path in (tmp_path / "numbers").glob("*.json"):
        if not path.name.startswith("questions"):  # these keep the ids of the official file
            assert read(tmp_path / "names" / path.name) == read(path), path.name


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_held_out_image_leaks_through_no_data_set(
    sources: Sources, tmp_path: Path, number: int
) -> None:
    (tmp_path / "list").write_text(f"{number}\n")
    write_corpus(sources, tmp_path / "out", tmp_path / "list")
    training = find_corpus(tmp_path / "out", "+".join(
        file.stem for file in (tmp_path / "out").glob("*co*.json") if file.stem != "mscoco_minival"
    ))  # fmt: skip
    sentences = [sentence for file in training for sentence in read_sentences(file)]
    assert len(sentences) in (9, 10, 11)
    assert not [sentence for sentence in sentences if str(number) in sentence.text]


def test_vqas_val_is_cut_into_two_splits(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("2\n")
    write_corpus(sources, tmp_path / "out", tmp_path / "list")
    for part, asked in (("minival", 20), ("nominival", 30)):
        split = read_questions("vqa2", tmp_path / "out", part, annotated=True)
        assert split.ids == (asked,)
    again = tmp_path / "again"
    again.mkdir()
    (again / "questions_minival.json").touch()
    with refuses("E-CORPUS-OUT", "questions_minival.json", kind=UsageError):
        write_corpus(sources, again, None)


def test_the_files_are_read_back(sources: Sources, tmp_path: Path) -> None:
    written = write_corpus(sources, tmp_path / "out", None)
    (file,) = find_corpus(tmp_path / "out", "mscoco_train")
    found = list(read_sentences(file))
    assert [sentence.source for sentence in found] == ["mscoco"] * 2 + ["vqa", "visual7w", "gqa"]
    assert [sentence.answers for sentence in found[1:3]] == [None, {"yes": 1.0}]
    assert (written.held_out, written.files["mscoco_minival"].images) == (1, 1)


def test_one_source_is_enough(sources: Sources, tmp_path: Path, typed: Typed) -> None:
    code, out, err = typed("corpus", "--captions", sources.captions, "--out", tmp_path / "a",
                           "--json")  # fmt: skip
    assert (code, json.loads(out)["files"]) == (
        0,
        {
            "mscoco_train": {"images": 1, "sentences": 2, "questions": 0},
            # Its image 2 has a blank caption alone, so that 3 is all of val2014.
            "mscoco_minival": {"images": 1, "sentences": 1, "questions": 0},
        },
    )
    assert json.loads(out)["blank"] == 1
    code, out, err = typed("corpus", "--visual-genome", sources.visual_genome,
                           "--out", tmp_path / "b")  # fmt: skip
    assert (code, [file.name for file in (tmp_path / "b").iterdir()]) == (0, ["vgnococo.json"])
    assert err.splitlines()[1].startswith("nothing is held out")
    assert "4 sentences about 4 images of Visual Genome that are COCO's" in err


def test_region_captions_are_captions_of_the_whole_image(
    sources: Sources, tmp_path: Path, typed: Typed
) -> None:
    assert sources.visual_genome
    write_regions(sources.visual_genome)
    (tmp_path / "list").write_text("2\n")
    out = tmp_path / "out"
    code, printed, err = typed("corpus", *options(sources), "--held-out", tmp_path / "list",
                               "--out", out)  # fmt: skip
    assert code == 0, err
    # Three more sentences about each image, and no more questions, than without them.
    assert [line.split() for line in printed.splitlines()[1:]] == [
        ["mscoco_train.json", "1", "8", "3"],
        ["mscoco_nominival.json", "1", "7", "3"],
        ["mscoco_minival.json", "1", "6", "3"],
        ["vgnococo.json", "1", "5", "2"],
    ]
    assert "left out: 5 sentences about 1 images of Visual Genome that are COCO's" in err
    assert "region" not in err
    for name, image_id, coco_id in (
        ("mscoco_train", ONE, 1), ("mscoco_nominival", THREE, 3), ("mscoco_minival", TWO, 2),
        ("vgnococo", "103", None),
    ):  # fmt: skip
        (image,) = read(out / f"{name}.json")
        assert image["img_id"] == image_id
        phrases = [f"the sky above {coco_id}", *[f"grass of {coco_id}"] * 2]
        assert image["sentf"]["vg"] == phrases
        assert "vg" not in image["labelf"]
        found = [s for s in read_sentences(out / f"{name}.json") if s.source == "vg"]
        assert [(s.text, s.answers) for s in found] == [(phrase, None) for phrase in phrases]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_held_out_image_leaks_through_no_region(
    sources: Sources, tmp_path: Path, number: int
) -> None:
    assert sources.visual_genome
    write_regions(sources.visual_genome)
    (tmp_path / "list").write_text(f"{number}\n")
    write_corpus(sources, tmp_path / "out", tmp_path / "list")
    for file in (tmp_path / "out").glob("*co*.json"):
        phrases = [s.text for s in read_sentences(file) if s.source == "vg"]
        about_it = [phrase for phrase in phrases if phrase.endswith(f" {number}")]
        assert about_it == (phrases if file.stem == "mscoco_minival" else []), file
        assert phrases


def test_regions_alone_make_a_corpus(sources: Sources, tmp_path: Path) -> None:
    assert sources.visual_genome
    write_regions(sources.visual_genome)
    (sources.visual_genome / "question_answers.json").unlink()
    only = Sources(captions=sources.captions, visual_genome=sources.visual_genome)
    written = write_corpus(only, tmp_path / "out", None)
    assert written.files == {
        "mscoco_train": (1, 5, 0),
        "mscoco_minival": (1, 4, 0),  # 3, the only image of val2014 with a caption
        "vgnococo": (1, 3, 0),
    }


# What is wrong with an entry of region_descriptions.json, beside one good region of image 103.
DAMAGED_REGIONS: list[tuple[Any, str]] = [
    (3, "[1]: expected an object with 'regions'; got 3"),
    ({"id": 103}, "[1]: no key 'regions'"),
    ({"id": 103, "regions": {}}, "[1]: regions must be of type list"),
    ({"id": 103, "regions": [None]}, "[1].regions[0]: expected an object with 'image_id'"),
    ({"id": 103, "regions": [{"phrase": "a cat"}]}, "[1].regions[0]: no key 'image_id'"),
    ({"id": 103, "regions": [region(103, None)]}, "phrase must be of type str; got None"),
    ({"id": 103, "regions": [region(103, "\ud800")]}, "phrase contains half a surrogate pair"),
    ({"id": 103, "regions": [region(1.5, "a cat")]}, "image_id must be a number"),
    ({"id": 7, "regions": [region(7, "a cat")]}, "image_data.json has no image '7'"),
]


@pytest.mark.parametrize(("entry", "named"), DAMAGED_REGIONS)
def test_a_damaged_region_costs_itself(
    sources: Sources, tmp_path: Path, typed: Typed, entry: Any, named: str
) -> None:
    assert sources.visual_genome
    good = {"id": 103, "regions": [region(103, "a dog"), region(103, " ")]}
    path = sources.visual_genome / "region_descriptions.json"
    write(path, [good, entry, good])
    command = ("corpus", "--visual-genome", sources.visual_genome)
    code, out, err = typed(*command, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    (image,) = read(tmp_path / "out/vgnococo.json")
    assert image["sentf"]["vg"] == ["a dog", "a dog"]
    assert (json.loads(out)["blank"], json.loads(out)["damage"]["entries"]) == (2, 1)
    (note,) = [line for line in err.splitlines() if "damaged" in line]
    assert note.startswith("left out: 1 damaged entries of region_descriptions.json, the first one")
    assert str(path) in note
    assert named in note

    write(path, [entry])
    named = named.replace("[1]", "[0]")
    with refuses("E-DATA-EMPTY", str(path), "the first of 1 damaged entries", named):
        write_corpus(Sources(visual_genome=sources.visual_genome), tmp_path / "more", None)


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("[]", "E-DATA-EMPTY", "no region caption that can be used; download"),
        ("{}", "E-JSON-TYPE", "expected a list of images; got {}"),
        ('[{"id": 103, "regions": [', "E-JSON-READ", "item 0"),
    ],
)
def test_a_file_without_regions_is_refused(
    sources: Sources, tmp_path: Path, content: str, code: str, named: str
) -> None:
    assert sources.visual_genome
    (sources.visual_genome / "region_descriptions.json").write_text(content)
    with refuses(code, "region_descriptions.json", named):
        write_corpus(sources, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_gqa_alone_needs_no_questions_of_visual_genome(sources: Sources, tmp_path: Path) -> None:
    assert sources.visual_genome
    (sources.visual_genome / "question_answers.json").unlink()
    written = write_corpus(sources, tmp_path / "out", None)
    assert written.files["vgnococo"] == (1, 1, 1)


def test_gqa_needs_to_know_which_images_are_cocos(
    sources: Sources, tmp_path: Path, typed: Typed
) -> None:
    code, _, err = typed("corpus", "--gqa", sources.gqa, "--vqa", sources.vqa, "--out", tmp_path)
    assert code == 2
    assert "--gqa needs --visual-genome" in err
    assert "held-out images may leak" in err


def test_missing_files_are_named_before_any_is_read(
    sources: Sources, tmp_path: Path, typed: Typed
) -> None:
    def refused(*words: object) -> str:
        code, out, err = typed("corpus", *words, "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        return err

    assert "no source; pass --captions" in refused()
    empty = tmp_path / "empty"
    empty.mkdir()
    for option, told in (
        (
            "captions",
            "captions_train2014.json, which --captions reads; pass the folder that has it [E-DATA-FILE]",
        ),
        ("vqa", "the questions of split 'train' (docs/vqa.md"),
        ("visual-genome", "image_data.json"),
    ):
        assert told in refused(f"--{option}", empty)
    assert "train_balanced_questions.json" in refused(*options(sources)[:-1], empty)
    assert sources.visual_genome
    (sources.visual_genome / "question_answers.json").unlink()
    assert "has no question_answers.json" in refused("--visual-genome", sources.visual_genome)
    assert "does not exist" in refused("--captions", tmp_path / "nowhere")


def test_existing_files_are_kept(sources: Sources, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "vgnococo.json").write_text("mine")
    code, _, err = typed("corpus", "--captions", sources.captions, "--out", tmp_path)
    assert (code, (tmp_path / "vgnococo.json").read_text()) == (2, "mine")
    assert "has vgnococo.json already; delete them or name another --out" in err
    code, _, err = typed("corpus", "--captions", sources.captions, "--out",
                         tmp_path / "vgnococo.json")  # fmt: skip
    assert (code, "is not a folder" in err) == (2, True)


def test_a_write_that_fails_leaves_no_file(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_module.atomic_file

    def fails_at_the_last(path: Path, *, replace: bool) -> Any:
        if path.name == "vgnococo.json":
            raise OSError(28, "No space left on device")
        return whole(path, replace=replace)

    monkeypatch.setattr(write_module, "atomic_file", fails_at_the_last)
    with pytest.raises(OSError, match="No space left"):
        write_corpus(sources, tmp_path / "out", None)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("2\n\n000000000003\n2", {2, 3}),
        ("COCO_val2014_000000000042\r\nCOCO_train2014_000000000007.jpg\n0\n", {42, 7, 0}),
        ('[{"img_id": "COCO_val2014_000000000042", "sent": "?"}, {"img_id": "7"}]', {42, 7}),
        ('[{"img_id": 42}, {"img_id": 7}]', {42, 7}),
        ('["COCO_val2014_000000000042", 7]', {42, 7}),  # coco_minival_img_ids.json has names
    ],
)
def test_a_list_of_held_out_images(tmp_path: Path, content: str, numbers: set[int]) -> None:
    (tmp_path / "list").write_text(content)
    assert read_held_out(tmp_path / "list") == numbers


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("", "E-DATA-EMPTY", ""),
        ("[]", "E-DATA-EMPTY", ""),
        ("2\nVG_3\n", "E-CORPUS-IMAGE", "line 2"),
        ("2\nVG_3\n", "E-CORPUS-IMAGE", "got 'VG_3'"),
        ("-2", "E-CORPUS-IMAGE", "line 1"),
        ("9" * 5000, "E-CORPUS-IMAGE", "line 1"),
        ("[true]", "E-JSON-TYPE", "[0]"),
        ('[{"image_id": 2}]', "E-JSON-KEY", "[0]: no key 'img_id'; found 'image_id'"),
        ('[{"img_id": 1.5}]', "E-JSON-TYPE", "img_id"),
        ('[{"img_id": "\\ud800"}]', "E-CORPUS-IMAGE", r"got '\ud800'"),
        ('{"img_id": "2"}', "E-JSON-TYPE", "img_id"),
        ("[", "E-HELD-OUT-READ", "line 1 column 2"),
        (b"\xff", "E-HELD-OUT-READ", ""),
    ],
)
def test_other_files_are_not_lists_of_images(
    tmp_path: Path, content: str | bytes, code: str, named: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "list").write_bytes(data)
    with refuses(code, str(tmp_path / "list"), named):
        read_held_out(tmp_path / "list")


def test_a_list_of_other_images_is_refused(sources: Sources, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "list").write_text("77\n78\n")
    words = ("corpus", *options(sources), "--held-out", tmp_path / "list", "--out", tmp_path / "o")
    code, _, err = typed(*words)
    assert code == 2
    assert "none of the 2 images of" in err
    assert not (tmp_path / "o").exists()
    (tmp_path / "list").write_text("77\n78\n3\n")
    code, _, err = typed(*words)
    assert code == 0
    assert "2 images of the list have no caption or question" in err


CAPTION = {"image_id": 1, "caption": "A cat.", "id": 1}
HOSTILE = {
    "captions/captions_train2014.json": [
        ([], "E-JSON-TYPE", "'annotations'"),
        ({"annotations": {}}, "E-JSON-TYPE", "annotations"),
        ({"annotations": [None]}, "E-JSON-TYPE", "annotations[0]"),
        ({"annotations": [CAPTION | {"caption": None}]}, "E-JSON-TYPE", "caption"),
        ({"annotations": [CAPTION | {"caption": "\ud800"}]}, "E-JSON-UNICODE", "caption"),
        ({"annotations": [CAPTION | {"image_id": "01"}]}, "E-CORPUS-IMAGE", "image_id"),
        ({"annotations": [CAPTION | {"image_id": -1}]}, "E-CORPUS-IMAGE", "got -1"),
        ({"annotations": [CAPTION | {"image_id": 10**12}]}, "E-CORPUS-IMAGE", "image_id"),
        ({"annotations": [CAPTION | {"image_id": 3}]}, "E-CORPUS-PARTS", "image 3 "),
        ("{", "E-JSON-READ", "captions_train2014.json"),
    ],
    "vqa/v2_OpenEnded_mscoco_val2014_questions.json": [
        (
            {"questions": [{"question_id": 20, "image_id": "x", "question": "?"}]},
            "E-CORPUS-IMAGE",
            "got 'x'",
        ),
        (
            {"questions": [{"question_id": 20, "image_id": 2, "question": "\udc00"}]},
            "E-JSON-UNICODE",
            "question 20",
        ),
        (
            {"questions": [{"question_id": 99, "image_id": 2, "question": "?"}]},
            "E-VQA-ANNOTATIONS",
            "99",
        ),
    ],
    "vg/image_data.json": [
        ({}, "E-JSON-TYPE", "got {}"),
        ([3], "E-JSON-TYPE", "[0]: expected an object with 'image_id'"),
        ([{"image_id": 1.5, "coco_id": 2}], "E-JSON-TYPE", "image_id"),
        ([{"image_id": 101}], "E-JSON-KEY", "'coco_id'"),
        ([{"image_id": 101, "coco_id": "02"}], "E-CORPUS-IMAGE", "coco_id"),
        ([{"image_id": 101, "coco_id": float("nan")}], "E-JSON-TYPE", "coco_id"),
        ([{"image_id": 101, "coco_id": 2}] * 2, "E-DATA-TWICE", "image_id '101'"),
        ([{"image_id": 101, "coco_id": 2}], "E-CORPUS-IMAGE", "image_data.json has no image '102'"),
    ],
    "vg/question_answers.json": [
        (
            [{"qas": [{"qa_id": 1, "image_id": 1, "question": "?", "answer": "a"}]}],
            "E-CORPUS-IMAGE",
            "'1'",
        ),
        (
            [{"qas": [{"qa_id": 1, "image_id": 101, "question": "?", "answer": "\ud800"}]}],
            "E-JSON-UNICODE",
            "answer",
        ),
    ],
    "gqa/val_balanced_questions.json": [
        (
            {"1": {"question": "?", "imageId": "101", "isBalanced": True}},
            "E-VQA-ANNOTATIONS",
            "such as 1",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "code", "named"),
    [(name, *case) for name, cases in HOSTILE.items() for case in cases],
)
def test_bad_sources_are_named_and_nothing_is_written(
    sources: Sources, tmp_path: Path, name: str, content: Any, code: str, named: str
) -> None:
    write(tmp_path / name, content)
    if content == "{":
        (tmp_path / name).write_text("{")
    with refuses(code, named):
        write_corpus(sources, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_the_demos_data_become_a_corpus(tmp_path: Path, typed: Typed) -> None:
    write_demo_data(tmp_path / "demo", 20, seed=0)
    folders = ("--captions", tmp_path / "demo/captions", "--vqa", tmp_path / "demo/vqa")
    code, out, err = typed("corpus", *folders, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    counts = json.loads(out)["files"]
    # 20 scenes with five captions each; 4 of them are val2014, an eighth of which is one.
    assert [counts[name]["images"] for name in counts] == [16, 3, 1]
    captions = [file["sentences"] - file["questions"] for file in counts.values()]
    assert captions == [80, 15, 5]
    asked = sum(
        len(read(tmp_path / f"demo/vqa/v2_OpenEnded_mscoco_{part}_questions.json")["questions"])
        for part in ("train2014", "val2014")
    )
    assert sum(file["questions"] for file in counts.values()) == asked
    (held_out,) = read(tmp_path / "out/mscoco_minival.json")
    assert held_out["img_id"] == "COCO_val2014_000000000010"  # the smallest sha256 of the four
