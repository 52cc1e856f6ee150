"""The caption files: what is read of them, what is refused, and the examples that come of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stores import make_store

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.data.caption_vocabulary import WordVocabulary, build_words
from clipfeat.train.data.captions import CaptionSplit
from clipfeat.train.data.coco_captions import read_split
from clipfeat.train.records import RecordReader
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
    return read_split("karpathy_coco", folder, name, **{"training": True} | options)


def official(folder: Path, content: Any, name: str = "val", **options: Any) -> CaptionSplit:
    subset = {"train": "train2014", "val": "val2014"}.get(name, name)
    write(folder / f"captions_{subset}.json", content)
    return read_split("coco", folder, name, **{"training": True} | options)


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


def test_flickr30k_images_go_by_their_file_names(tmp_path: Path) -> None:
    rows = [flickr_row("36979.jpg", "train", "A man."), flickr_row("8.jpg", "val", "A dog.")]
    write(tmp_path / "dataset_flickr30k.json", {"images": rows})
    split = read_split("karpathy_flickr30k", tmp_path, "train+val", training=True)
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
    joined = read_split("coco", tmp_path, "train+val", training=True)
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
    vocabulary = WordVocabulary(("a", "dog"))
    assert encode(split, vocabulary, {stored}, skip_missing=0).image_ids == (stored,)


def test_images_of_one_name_in_several_folders_are_several_images(tmp_path: Path) -> None:
    content = official_content((7, "A dog"), (8, "A dog"))
    for record, name in zip(content["images"], ("a/1.jpg", "b/1.png"), strict=True):
        record["file_name"] = name
    split, vocabulary = official(tmp_path, content), WordVocabulary(("a", "dog"))
    for stored in (("a/1", "b/1"), ("a/1.jpg", "b/1.png")):
        assert encode(split, vocabulary, {"1", *stored}, skip_missing=0).image_ids == stored
    with pytest.raises(ClipfeatError, match="image 7 and image 8 would both be '1'") as refused:
        encode(split, vocabulary, {"1"}, skip_missing=0)
    assert refused.value.code == "E-IMAGES-SAME"


def test_a_split_of_ones_own_may_be_of_any_part_of_coco(tmp_path: Path) -> None:
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
    ("dataset", "name", "message"),
    [
        ("karpathy_coco", "train", "has no dataset_coco.json"),
        ("karpathy_flickr30k", "train", "has no dataset_flickr30k.json"),
        ("coco", "val", "split 'val': expected captions_val2014.json or captions_val.json"),
        ("coco", "mine", "split 'mine': expected captions_mine.json"),
        ("coco", "val+val", "names part 'val' twice"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, dataset: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_split(dataset, tmp_path, name, training=True)
    with pytest.raises(UsageError, match="is not a folder; --data takes"):
        read_split(dataset, tmp_path / "nowhere", name, training=True)


def test_a_split_that_the_file_has_not_is_told_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of split 'vla'; its splits: restval, test, train, val"):
        karpathy(tmp_path, COCO, "vla")
    with pytest.raises(UsageError, match="of split 'train'; its splits: none"):
        karpathy(tmp_path, [])
    with pytest.raises(ClipfeatError, match="split 'val' has no images"):
        official(tmp_path, {"images": [], "annotations": []})


def test_an_image_without_captions_ends_training_and_is_left_out_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "split 'val': 2 of 3 images have no caption, such as 5, 6"
    content = official_content((7, "A dog"), (6, "."), images=(5, 6, 7))
    with pytest.raises(ClipfeatError, match=told):
        official(tmp_path, content)
    split = official(tmp_path, content, training=False)
    assert [image.image_id for image in split.images] == [7]
    err = capsys.readouterr().err
    assert f"{told}; left out\n" in err
    assert "split 'val': 1 captions have no word; dropped\n" in err
    with pytest.raises(ClipfeatError, match="1 of 1 images have no caption, such as 3"):
        karpathy(tmp_path, [coco_row(3, "val")], "val", training=False)


def test_an_image_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipfeatError, match="split 'train': image 1 is there twice"):
        karpathy(tmp_path, [*COCO, COCO[1]])
    with pytest.raises(ClipfeatError, match=r"images\[1\]: id 5 is there twice"):
        official(tmp_path, official_content((5, "A cat"), images=(5, 5)))
    official(tmp_path, official_content((5, "A cat")), "a")
    official(tmp_path, official_content((5, "A cat")), "b")
    with pytest.raises(ClipfeatError, match=r"split 'a\+b': image 5 is there twice"):
        read_split("coco", tmp_path, "a+b", training=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"images\[5\]: expected an object with 'split'; got \[\]"),
        (coco_row(8, "train", "A") | {"split": ["train"]}, "split must be of type str"),
        (coco_row(8, "train", "A", cocoid=None), "cocoid must be a number or text; got None"),
        (coco_row(8, "train", "A", cocoid=True), "cocoid must be a number or text; got True"),
        (coco_row(8, "train", "A", filename=3), "filename must be of type str; got 3"),
        (coco_row(8, "train", sentences={}), "sentences must be of type list"),
        (coco_row(8, "train", sentences=["A"]), r"sentences\[0\]: expected an object with 'raw'"),
        (coco_row(8, "train", sentences=[{"tokens": []}]), "no key 'raw'"),
        (
            coco_row(8, "train", sentences=[sentence("A") | {"raw": 3}]),
            "raw must be of type str; got 3",
        ),
        (coco_row(8, "train", sentences=[sentence("A", tokens="a")]), "tokens must be of type lis"),
        (coco_row(8, "train", sentences=[sentence("A", tokens=[{}])]), "tokens must be texts"),
        (coco_row(8, "train", sentences=[sentence("\ud800")]), "holds half a surrogate pair"),
        (coco_row(8, "train", sentences=[sentence("A", tokens=["\udfff"])]), "half a surrogate"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ClipfeatError, match=message):
        karpathy(tmp_path, [*COCO, row])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with 'images'"),
        ({"images": {}}, "images must be of type list"),
        ({"images": [{}], "annotations": []}, r"images\[0\]: no key 'id'"),
        ({"images": []}, "no key 'annotations'"),
        ({"images": [], "annotations": [3]}, r"annotations\[0\]: expected an object"),
        (official_content((5, "A"), images=(6,)), "image_id 5 is none of the images of the file"),
        (official_content((5, None)), "caption must be of type str; got None"),  # type: ignore[arg-type]
        (official_content((5, "\ud800")), "caption holds half a surrogate pair"),
    ],
)
def test_a_bad_official_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ClipfeatError, match=message):
        official(tmp_path, content)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_coco.json").write_text('{"images": [')
    with pytest.raises(ClipfeatError, match=r"dataset_coco.json: not a readable JSON file"):
        read_split("karpathy_coco", tmp_path, "train", training=True)


WORDS = WordVocabulary(("a", "man", "stands"))  # tokens 4, 5, 6


def test_captions_become_rows_of_begin_words_end_and_padding(tmp_path: Path) -> None:
    split = karpathy(tmp_path, COCO)
    store = {"COCO_train2014_000000000001", "2", "000000000004"}
    examples = encode(split, WORDS, store, max_tokens=3, skip_missing=0)
    assert examples.ids == (1, 2, 4)
    assert examples.image_ids == ("COCO_train2014_000000000001", "2", "000000000004")
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
    with pytest.raises(ClipfeatError, match="4 of 4 captions have no word of the voc") as refused:
        encode(split, WordVocabulary(("chien",)), {"1", "2", "4"}, skip_missing=0)
    assert refused.value.code == "E-TEXT-UNKNOWN"


def test_images_without_features_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = karpathy(tmp_path, COCO)
    told = "3 of 4 captions of split 'train' are about 2 images that have no features, such as "
    with pytest.raises(ClipfeatError, match=rf"{told}COCO_train2014_000000000001 or .* 3$"):
        encode(split, WORDS, {"4"}, skip_missing=2)
    examples = encode(split, build_words(split.texts, min_count=1), {"4"}, skip_missing=3)
    assert (examples.ids, examples.image_of_caption.tolist()) == ((4,), [0])
    assert told in capsys.readouterr().err
    with pytest.raises(ClipfeatError, match="none of its images has features"):
        encode(split, WORDS, set(), skip_missing=4)


def test_a_batch_reads_each_image_once(tmp_path: Path) -> None:
    split = karpathy(tmp_path, COCO)
    grids = {str(i): np.full((1, i, 2), i, np.float16) for i in (1, 2, 4)}
    store = FeatureStore.open(make_store(tmp_path / "x.clipfeat", grids))
    examples = encode(split, WORDS, store, skip_missing=0)
    reader = RecordReader(store, torch.device("cpu"))
    batch = read_batch(reader, examples, np.array([3, 0, 1])).to(torch.device("cpu"))
    assert batch.features.shape == (2, 4, 2)
    assert batch.features[:, 0, 0].tolist() == [1, 4]
    assert batch.image_of_caption.tolist() == [1, 0, 0]
    assert batch.tokens.tolist() == [[2, 1, 1, 3, 0], [2, 4, 1, 1, 3], [2, 4, 5, 6, 3]]
