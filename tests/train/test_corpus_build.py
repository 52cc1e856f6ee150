"""Which images are held out, and which file each sentence goes to."""

from refused import refuses

from clipfeat.train.data.corpus import FILES, Gathered, choose_held_out, coco_names, divide
from clipfeat.train.data.lxmert import Sentence


def name(number: int, part: str = "val2014") -> str:
    return f"COCO_{part}_{number:012}"


# By coreutils: printf COCO_val2014_000000000005 | sha256sum, and so on.
SHA256 = {5: "666b921a", 10: "2c33c5bd", 15: "48bf713c", 20: "ff81f3b8"}


def test_the_images_of_the_smallest_hashes_are_held_out() -> None:
    some = {number: name(number) for number in SHA256}
    assert choose_held_out(some) == {10}
    # Nine images, an eighth of which is two, whoever else there is in train2014.
    more = {number: name(number) for number in (*range(101, 106), *SHA256)}
    both = choose_held_out({**more, 1: name(1, "train2014")})
    assert len(both) == 2
    assert choose_held_out({7: name(7, "train2014")}) == frozenset()


def test_an_eighth_of_coco_is_held_out_and_5000_at_most() -> None:
    assert len(choose_held_out({n: name(n) for n in range(8_001)})) == 1_001
    assert len(choose_held_out({n: name(n) for n in range(40_504)})) == 5_000


def test_an_image_is_in_one_part_of_coco() -> None:
    names = [name(7), name(8, "train2014"), name(7)]
    assert coco_names([*names, "103"]) == {7: name(7), 8: name(8, "train2014")}
    with refuses("E-CORPUS-PARTS", f"image 7 is both {name(7)} and {name(7, 'train2014')}"):
        coco_names([*names, name(7, "train2014")])


def test_sentences_are_filed_by_image_and_source() -> None:
    gathered = Gathered()
    gathered.add(
        [
            Sentence(name(2), "Bus.", "mscoco", None),
            Sentence(name(2), "Who?", "vqa", {"man": 0.3}),
            Sentence("103", "\t", "gqa", {"a": 1.0}),
            Sentence(name(2), "Red bus.", "mscoco", None),
            Sentence(name(2), "Why?", "vqa", {}),
        ]
    )
    assert (gathered.blank, list(gathered.images)) == (1, [name(2)])
    assert gathered.images[name(2)] == {
        "img_id": name(2),
        "sentf": {"mscoco": ["Bus.", "Red bus."], "vqa": ["Who?", "Why?"]},
        "labelf": {"vqa": [{"man": 0.3}, {}]},
    }


def test_images_of_visual_genome_get_cocos_names() -> None:
    gathered = Gathered()
    found = [Sentence(image, f"{image}?", "gqa", {}) for image in ("1", "2", "3", "3", "4")]
    coco_of = {"1": 7, "2": None, "3": 999, "4": 0}
    gathered.add_visual_genome(found, coco_of, {7: name(7), 0: name(0)})
    texts = {image: record["sentf"]["gqa"] for image, record in gathered.images.items()}
    assert texts == {name(7): ["1?"], "2": ["2?"], name(0): ["4?"]}
    assert dict(gathered.unknown_part) == {"3": 2}


def test_held_out_images_are_in_one_file_only() -> None:
    ids = [name(3), "20", name(9, "train2014"), "103", name(2), name(1, "train2014")]
    images = {image_id: {"img_id": image_id} for image_id in ids}

    def divided(*held_out: int) -> dict[str, list[str]]:
        files = divide(images, held_out)
        return {file: [record["img_id"] for record in records] for file, records in files.items()}

    assert divided(2, 9, 103) == {
        "mscoco_train": [name(1, "train2014")],
        "mscoco_nominival": [name(3)],
        "mscoco_minival": [name(9, "train2014"), name(2)],
        "vgnococo": ["103", "20"],
    }
    assert tuple(divided(2)) == FILES
    assert "mscoco_minival" not in divided()
