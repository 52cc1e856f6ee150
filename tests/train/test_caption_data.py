"""The caption files: what is read, what is refused, and the resulting examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_store

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.data.caption_files import match_references, read_references
from clipfeat.train.data.caption_vocabulary import CaptionWordVocabulary, build_caption_words
from clipfeat.train.data.captions import CaptionSplit, read_captions, read_image_list
from clipfeat.train.records import RecordReader
from clipfeat.train.task import on_device
from clipfeat.train.tasks.captioning.examples import encode, read_batch


def sentence(raw: str, **changes: Any) -> dict[str, Any]:
    """Return a sentence as Karpathy has it: lower case, no punctuation, words not split by it."""
    plain = raw.lower().translate({ord(letter): None for letter in ".,'-"})
    return {"tokens": plain.split(), "raw": raw, "imgid": 0, "sentid": 0} | changes


def coco_row(image_id: int, split: str, *raws: str, **changes: Any) -> dict[str, Any]:
    subset = "train2014" if split == "train" else "val2014"
    return {
        "filepath": subset,
        "filename": f"COCO_{subset}_{image_id:012}.jpg",
        "cocoid": image_id,
        "imgid": image_id,
        "split": split,
        "sentences": [sentence(raw) for raw in raws],
    } | changes


def flickr_row(name: str, split: str, *raws: str) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [sentence(raw) for raw in raws]}


COCO = [
    coco_row(9, "test", "A dog."),
    coco_row(1, "train", "A man's T-shirt.", "A man stands."),
    coco_row(2, "restval", "Two dogs."),
    coco_row(3, "val", "A cat."),
    coco_row(4, "train", "One café."),
]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def karpathy(folder: Path, rows: list[Any], name: str = "train", **options: Any) -> CaptionSplit:
    write(folder / "dataset_coco.json", {"images": rows, "dataset": "coco"})
    return read_captions("karpathy_coco", folder, name, **{"training": True} | options)


def official(folder: Path, content: Any, name: str = "val", **options: Any) -> CaptionSplit:
    subset = {"train": "train2014", "val": "val2014"}.get(name, name)
    write(folder / f"captions_{subset}.json", content)
    return read_captions("coco", folder, name, **{"training": True} | options)


def official_content(*captions: tuple[int, str], images: tuple[int, ...] = ()) -> dict[str, Any]:
    ids = images or tuple(dict.fromkeys(image for image, _ in captions))
    return {
        "images": [{"id": i, "file_name": f"COCO_val2014_{i:012}.jpg"} for i in ids],
        "annotations": [
            {"image_id": image, "id": number, "caption": caption}
            for number, (image, caption) in enumerate(captions)
        ],
    }


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("train", (1, 2, 4)),
        ("restval", (2,)),
        ("val", (3,)),
        ("test", (9,)),
        ("train+val", (1, 2, 3, 4)),
        ("val+test", (9, 3)),
    ],
)
def test_training_on_karpathys_coco_takes_in_his_restval(
    tmp_path: Path, name: str, ids: tuple[int, ...]
) -> None:
    split = karpathy(tmp_path, COCO, name)
    assert tuple(image.image_id for image in split.images) == ids
    assert split.files == (tmp_path / "dataset_coco.json",)


def test_a_caption_is_kept_as_written_and_as_the_words_of_the_file(tmp_path: Path) -> None:
    first, second, _ = karpathy(tmp_path, COCO).images
    assert first.references == ("A man's T-shirt.", "A man stands.")
    assert first.texts == ("a mans tshirt", "a man stands")  # tokenize would give man's, t, shirt
    assert first.candidates == ("COCO_train2014_000000000001", "000000000001", "1")
    assert second.candidates[0] == "COCO_val2014_000000000002"


def test_flickr30k_images_have_the_names_of_their_files(tmp_path: Path) -> None:
    rows = [flickr_row("36979.jpg", "train", "A man."), flickr_row("8.jpg", "val", "A dog.")]
    write(tmp_path / "dataset_flickr30k.json", {"images": rows})
    split = read_captions("karpathy_flickr30k", tmp_path, "train+val", training=True)
    assert [image.image_id for image in split.images] == ["36979", "8"]
    assert split.images[0].candidates == ("36979", "36979.jpg")


def test_the_official_files_of_coco(tmp_path: Path) -> None:
    """They have no tokens; images keep the order in which the file lists them."""
    content = official_content((7, "The dog's 2 toys, red."), (5, "A cat"), (7, "Dogs"))
    split = official(tmp_path, content)
    assert [image.image_id for image in split.images] == [7, 5]
    assert split.images[0].references == ("The dog's 2 toys, red.", "Dogs")
    assert split.images[0].texts == ("the dog's 2 toys red", "dogs")
    assert split.images[0].candidates == ("COCO_val2014_000000000007", "000000000007", "7")

    content = official_content((1, "A man"))
    content["images"][0]["file_name"] = "COCO_train2014_000000000001.jpg"
    both = official(tmp_path, content, "train")
    assert both.images[0].candidates[0] == "COCO_train2014_000000000001"
    joined = read_captions("coco", tmp_path, "train+val", training=True)
    assert [image.image_id for image in joined.images] == [1, 7, 5]
    assert [file.name for file in joined.files] == [
        "captions_train2014.json",
        "captions_val2014.json",
    ]


@pytest.mark.parametrize(
    ("file_name", "stored"),
    [
        ("beach.jpg", "beach"),
        ("beach.jpg", "beach.jpg"),
        ("mine/beach.jpg", "mine/beach.jpg"),
        ("mine/beach.jpg", "mine/beach"),
        ("mine/beach.png", "mine/beach.png"),
        ("mine/beach.png", "beach"),
        ("mine/beach.png", "mine/beach"),
        ("mine/beach.jpeg", "mine/beach"),
        ("mine/beach.JPG", "mine/beach"),
        ("", "7"),
        ("beach.jpg", "COCO_val2014_000000000007.jpg"),
    ],
)
def test_an_image_of_coco_is_found_by_its_files_name(
    tmp_path: Path, file_name: str, stored: str
) -> None:
    content = official_content((7, "A dog"))
    content["images"][0]["file_name"] = file_name
    content["annotations"][0]["image_id"] = "7"  # the same number
    split = official(tmp_path, content)
    vocabulary = CaptionWordVocabulary(("a", "dog"))
    assert encode(split, vocabulary, {stored}, skip_missing=0).image_ids == (stored,)


def test_images_of_one_name_in_several_folders_are_several_images(tmp_path: Path) -> None:
    content = official_content((7, "A dog"), (8, "A dog"))
    for record, name in zip(content["images"], ("a/1.jpg", "b/1.png"), strict=True):
        record["file_name"] = name
    split, vocabulary = official(tmp_path, content), CaptionWordVocabulary(("a", "dog"))
    for stored in (("a/1", "b/1"), ("a/1.jpg", "b/1.png")):
        assert encode(split, vocabulary, {"1", *stored}, skip_missing=0).image_ids == stored
    with refuses("E-IMAGES-SAME", "image 7 and image 8", "'1'"):
        encode(split, vocabulary, {"1"}, skip_missing=0)


def test_a_user_split_may_have_images_of_any_part_of_coco(tmp_path: Path) -> None:
    content = official_content((7, "A dog"))
    split = official(tmp_path, content, "mine")
    assert split.images[0].candidates[0] == "COCO_val2014_000000000007"  # as its file is called
    del content["images"][0]["file_name"]
    split = official(tmp_path, content, "mine")
    assert split.images[0].candidates[:2] == (
        "COCO_train2014_000000000007",
        "COCO_val2014_000000000007",
    )


@pytest.mark.parametrize(
    ("dataset", "name", "code", "named"),
    [
        ("karpathy_coco", "train", "E-DATA-FILE", "dataset_coco.json"),
        ("karpathy_flickr30k", "train", "E-DATA-FILE", "dataset_flickr30k.json"),
        ("coco", "val", "E-DATA-FILE", "captions_val2014.json or captions_val.json"),
        ("coco", "mine", "E-DATA-FILE", "captions_mine.json, the captions of split 'mine'"),
        ("coco", "val+val", "E-SPLIT-TWICE", "'val'"),
    ],
)
def test_missing_files_are_named(
    tmp_path: Path, dataset: str, name: str, code: str, named: str
) -> None:
    with refuses(code, named, kind=UsageError):
        read_captions(dataset, tmp_path, name, training=True)
    with refuses("E-DATA-FOLDER", str(tmp_path / "nowhere"), "--data", kind=UsageError):
        read_captions(dataset, tmp_path / "nowhere", name, training=True)


def test_an_unknown_split_is_named_with_those_of_the_file(tmp_path: Path) -> None:
    known = "restval, test, train, val"
    with refuses("E-SPLIT-UNKNOWN", "'vla'", known, kind=UsageError):
        karpathy(tmp_path, COCO, "vla")
    with refuses("E-SPLIT-UNKNOWN", "'train'", "none", kind=UsageError):
        karpathy(tmp_path, [])
    with refuses("E-SPLIT-EMPTY", "'val'", "captions_val2014.json"):
        official(tmp_path, {"images": [], "annotations": []})


def test_an_image_without_captions_ends_training_and_is_left_out_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "split 'val': 2 of 3 images have no caption, such as 5, 6"
    content = official_content((7, "A dog"), (6, "."), images=(5, 6, 7))
    with refuses("E-CAPTIONS-NONE", told):
        official(tmp_path, content)
    split = official(tmp_path, content, training=False)
    assert [image.image_id for image in split.images] == [7]
    err = capsys.readouterr().err
    assert f"{told}; left out\n" in err
    assert "split 'val': dropped 1 caption without a word\n" in err
    with refuses("E-CAPTIONS-NONE", "1 of 1 images", "3"):
        karpathy(tmp_path, [coco_row(3, "val")], "val", training=False)


def test_an_image_that_occurs_twice_is_named(tmp_path: Path) -> None:
    with refuses("E-DATA-TWICE", "split 'train': image 1 "):
        karpathy(tmp_path, [*COCO, COCO[1]])
    with refuses("E-DATA-TWICE", "images[1]: id '5' "):
        official(tmp_path, official_content((5, "A cat"), images=(5, 5)))
    official(tmp_path, official_content((5, "A cat")), "a")
    official(tmp_path, official_content((5, "A cat")), "b")
    with refuses("E-DATA-TWICE", "split 'a+b': image 5 "):
        read_captions("coco", tmp_path, "a+b", training=True)


@pytest.mark.parametrize(
    ("row", "code", "named"),
    [
        ([], "E-JSON-TYPE", "images[5]: expected an object with 'split'; got []"),
        (coco_row(8, "train", "A") | {"split": ["train"]}, "E-JSON-TYPE", "split"),
        (coco_row(8, "train", "A", cocoid=None), "E-JSON-TYPE", "cocoid"),
        (coco_row(8, "train", "A", cocoid=True), "E-JSON-TYPE", "cocoid"),
        (coco_row(8, "train", "A", filename=3), "E-JSON-TYPE", "filename"),
        (coco_row(8, "train", "A", filename=""), "E-CAPTIONS-FILE-NAME", "images[5]"),
        (coco_row(8, "train", sentences={}), "E-JSON-TYPE", "sentences"),
        (coco_row(8, "train", sentences=["A"]), "E-JSON-TYPE", "images[5].sentences[0]"),
        (coco_row(8, "train", sentences=[{"tokens": []}]), "E-JSON-KEY", "'raw'"),
        (coco_row(8, "train", sentences=[sentence("A") | {"raw": 3}]), "E-JSON-TYPE", "raw"),
        (coco_row(8, "train", sentences=[sentence("A", tokens="a")]), "E-JSON-TYPE", "tokens"),
        (coco_row(8, "train", sentences=[sentence("A", tokens=[{}])]), "E-JSON-TYPE", "tokens"),
        (coco_row(8, "train", sentences=[sentence("\ud800")]), "E-JSON-UNICODE", "raw"),
        (
            coco_row(8, "train", sentences=[sentence("A", tokens=["\udfff"])]),
            "E-JSON-UNICODE",
            "raw",
        ),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, row: Any, code: str, named: str) -> None:
    with refuses(code, str(tmp_path / "dataset_coco.json"), named):
        karpathy(tmp_path, [*COCO, row])


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ([], "E-JSON-TYPE", "'images'"),
        ({"images": {}}, "E-JSON-TYPE", "images"),
        ({"images": [{}], "annotations": []}, "E-JSON-KEY", "images[0]: no key 'id'"),
        ({"images": []}, "E-JSON-KEY", "'annotations'"),
        ({"images": [], "annotations": [3]}, "E-JSON-TYPE", "annotations[0]"),
        (official_content((5, "A"), images=(6,)), "E-CAPTIONS-IMAGES", "image_id 5"),
        (official_content((5, None)), "E-JSON-TYPE", "caption"),  # type: ignore[arg-type]
        (official_content((5, "\ud800")), "E-JSON-UNICODE", "caption"),
    ],
)
def test_a_bad_official_file_is_named(tmp_path: Path, content: Any, code: str, named: str) -> None:
    with refuses(code, str(tmp_path / "captions_val2014.json"), named):
        official(tmp_path, content)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_coco.json").write_text('{"images": [')
    with refuses("E-JSON-READ", "dataset_coco.json"):
        read_captions("karpathy_coco", tmp_path, "train", training=True)


WORDS = CaptionWordVocabulary(("a", "man", "stands"))  # tokens 4, 5, 6


def test_captions_become_rows_of_begin_words_end_and_padding(tmp_path: Path) -> None:
    split = karpathy(tmp_path, COCO)
    store = {"COCO_train2014_000000000001", "COCO_val2014_000000000002", "000000000004"}
    examples = encode(split, WORDS, store, max_tokens=3, skip_missing=0)
    assert examples.ids == (1, 2, 4)
    assert examples.image_ids == (
        "COCO_train2014_000000000001",
        "COCO_val2014_000000000002",
        "000000000004",
    )
    assert examples.texts[0] == split.images[0].texts
    assert examples.image_of_caption.tolist() == [0, 0, 1, 2]
    assert examples.tokens.tolist() == [
        [2, 4, 1, 1, 3],
        [2, 4, 5, 6, 3],
        [2, 1, 1, 3, 0],
        [2, 1, 1, 3, 0],
    ]
    assert len(examples) == 4


def test_a_long_caption_is_cut_and_still_ends(tmp_path: Path) -> None:
    split = karpathy(tmp_path, COCO)
    tokens = encode(split, WORDS, {"1", "2", "4"}, max_tokens=2, skip_missing=0).tokens
    assert tokens[1].tolist() == [2, 4, 5, 3]


def test_captions_of_unknown_words_only_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = karpathy(tmp_path, COCO)
    encode(split, WORDS, {"1", "2", "4"}, skip_missing=0)
    told = "split 'train': 2 of 4 captions have no word of the vocabulary"
    assert told in capsys.readouterr().err
    with refuses("E-TEXT-UNKNOWN", "4 of 4 captions"):
        encode(split, CaptionWordVocabulary(("chien",)), {"1", "2", "4"}, skip_missing=0)


def test_images_without_features_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = karpathy(tmp_path, COCO)
    told = "3 of 4 captions of split 'train' are about 2 images without features, such as "
    with refuses("E-IMAGES-MISSING", f"{told}COCO_train2014_000000000001 or ", "--skip-missing 3"):
        encode(split, WORDS, {"4"}, skip_missing=2)
    examples = encode(split, build_caption_words(split.texts, min_count=1), {"4"}, skip_missing=3)
    assert (examples.ids, examples.image_of_caption.tolist()) == ((4,), [0])
    assert told in capsys.readouterr().err
    with pytest.raises(ClipfeatError, match="split 'train'"):
        encode(split, WORDS, set(), skip_missing=4)


def test_a_batch_reads_each_image_once(tmp_path: Path) -> None:
    split = karpathy(tmp_path, COCO)
    grids = {str(i): np.full((1, i, 2), i, np.float16) for i in (1, 2, 4)}
    store = FeatureStore.open(make_store(tmp_path / "x.clipfeat", grids))
    examples = encode(split, WORDS, store, skip_missing=0)
    reader = RecordReader(store, torch.device("cpu"))
    batch = on_device(read_batch(reader, examples, np.array([3, 0, 1])), torch.device("cpu"))
    assert batch.features.shape == (2, 4, 2)
    assert batch.features[:, 0, 0].tolist() == [1, 4]
    assert batch.image_of_caption.tolist() == [1, 0, 0]
    assert batch.tokens.tolist() == [[2, 1, 1, 3, 0], [2, 4, 1, 1, 3], [2, 4, 5, 6, 3]]


def test_vizwiz_leaves_out_rejected_and_ready_captions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [
        {"id": i, "file_name": f"VizWiz_val_{i:08}.jpg", "vizwiz_url": "", "text_detected": True}
        for i in (1, 2)
    ]
    flags = {"is_rejected": False, "is_precanned": False}
    annotations = [
        {"image_id": 1, "caption": "a cup", **flags},
        {"image_id": 1, "caption": "spam", **flags, "is_rejected": True},
        {"image_id": 2, "caption": "Quality issues are too severe.", **flags, "is_precanned": True},
    ]
    path = write(tmp_path / "val.json", {"images": images, "annotations": annotations})
    with caplog.at_level("INFO"):
        split = read_captions("coco", tmp_path, "val", training=True)
    assert [image.references for image in split.images] == [("a cup",)]
    assert split.images[0].candidates == ("VizWiz_val_00000001", "1")
    assert "left out 2 captions that are is_rejected or is_precanned" in caplog.text
    references = read_references(path)
    assert match_references({"1": "a", "2": "b"}, references, subset=False) == {"1": ["a cup"]}


def test_images_of_nocaps_are_not_those_of_coco_with_their_numbers(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 7, "file_name": "0013ea2087020901.jpg", "open_images_id": "0013ea2087020901"}
        ],
        "annotations": [{"image_id": 7, "id": 0, "caption": "a baby"}],
    }
    write(tmp_path / "nocaps_val_4500_captions.json", content)
    (image,) = read_captions("coco", tmp_path, "val", training=False).images
    assert image.candidates == ("0013ea2087020901", "7")
    listed = read_image_list(write(tmp_path / "nocaps_test_image_info.json", content))
    assert listed[0].candidates == ("0013ea2087020901", "7")
