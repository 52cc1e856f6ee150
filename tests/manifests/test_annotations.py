"""JSON files of COCO, Karpathy and Visual Genome: ids, files found, and counts that are known."""

import pytest
from lists import coco, made, picture, write_json
from logged import logged
from refused import refuses

from clipfeat.manifests import Image, ManifestError
from clipfeat.manifests.listings import read_listing


class TestCoco:
    @pytest.mark.parametrize("folder", ["", "train2014"])
    def test_ids_are_numbers_and_the_layout_is_found_out(self, tmp_path, folder):
        source = write_json(tmp_path / "annotations/instances_train2014.json", coco([9, 25]))
        for k in (9, 25):
            picture(tmp_path / folder / f"COCO_train2014_{k:012}.jpg")
        manifest, said = made(source, root=tmp_path)
        prefix = f"{folder}/" if folder else ""
        assert manifest.images == (
            Image("25", f"{prefix}COCO_train2014_000000000025.jpg", 64, 48),
            Image("9", f"{prefix}COCO_train2014_000000000009.jpg", 64, 48),
        )
        assert manifest.root == str(tmp_path)
        assert said == [f"{source}: lists 2 images; COCO train2014 has 82,783"]

    def test_the_split_of_a_file_of_ones_own_is_told_by_the_names_in_it(self, tmp_path):
        found = coco([1])["images"] + coco([2], "val2014")["images"]
        source = write_json(tmp_path / "mine.json", {"images": found})
        picture(tmp_path / "train2014/COCO_train2014_000000000001.jpg")
        picture(tmp_path / "val2014/COCO_val2014_000000000002.jpg")
        manifest, said = made(source)
        assert [i.path.split("/")[0] for i in manifest.images] == ["train2014", "val2014"]
        assert said == []

    def test_the_images_of_test_dev_stand_in_the_folder_of_test(self, tmp_path):
        source = write_json(tmp_path / "image_info_test-dev2015.json", coco([3], "test2015"))
        picture(tmp_path / "test2015/COCO_test2015_000000000003.jpg")
        assert made(source)[0].images[0].path == "test2015/COCO_test2015_000000000003.jpg"

    def test_two_splits_in_one_call(self, tmp_path):
        sources = []
        for split, k in (("train2014", 1), ("val2014", 2)):
            sources.append(write_json(tmp_path / f"captions_{split}.json", coco([k], split)))
            picture(tmp_path / split / f"COCO_{split}_{k:012}.jpg")
        assert [i.image_id for i in made(*sources, root=tmp_path)[0].images] == ["1", "2"]

    def test_an_id_in_two_lists_cannot_be_told_apart_by_paths(self, tmp_path):
        sources = []
        for split in ("train2014", "val2014"):
            sources.append(write_json(tmp_path / f"captions_{split}.json", coco([1], split)))
            picture(tmp_path / split / f"COCO_{split}_000000000001.jpg")
        with refuses("E-MANIFEST-ID", kind=ManifestError) as error:
            made(*sources, root=tmp_path)
        assert "--ids" not in str(error.value)

    def test_lvis_has_a_url_in_the_place_of_a_name(self, tmp_path):
        """As in lvis_v1_val.json: https://www.lvisdataset.org/dataset."""
        entries = [
            {
                "date_captured": "2013-11-14 17:02:52",
                "id": 397133,
                "license": 4,
                "height": 48,
                "width": 64,
                "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
                "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
                "not_exhaustive_category_ids": [914, 801],
            }
        ]
        source = write_json(tmp_path / "lvis_v1_val.json", {"images": entries})
        picture(tmp_path / "coco/val2017/000000397133.jpg")
        for root, path in (
            ("coco", "val2017/000000397133.jpg"),
            ("coco/val2017", "000000397133.jpg"),
        ):
            manifest, said = made(source, root=tmp_path / root)
            assert (manifest.images, said) == ((Image("397133", path, 64, 48),), [])

    def test_ids_may_be_texts(self, tmp_path):
        """As in COCO-style files of other data sets: Objects365's converted ones, SBU's."""
        picture(tmp_path / "a.jpg")
        picture(tmp_path / "val2017/000000397133.jpg")
        named = {"id": "objects365_v1_00000042", "file_name": "a.jpg"}
        by_url = {
            "id": "x/397133",
            "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
        }
        for entry, path in ((named, "a.jpg"), (by_url, "val2017/000000397133.jpg")):
            source = write_json(tmp_path / "m.json", {"images": [entry]})
            assert made(source)[0].images == (Image(entry["id"], path, 64, 48),)

    def test_a_record_without_a_file_shows_all_that_it_has(self, tmp_path):
        entry = {"id": 1, "height": 2, "flickr_url": "http://x", "license": 3}
        source = write_json(tmp_path / "m.json", {"images": [entry]})
        keys = "'id', 'height', 'flickr_url', 'license'"
        with refuses("E-JSON-KEY", "'file_name'", keys, kind=ManifestError):
            made(source)

    def test_absolute_paths_below_the_root_are_taken_from_there_on(self, tmp_path):
        picture(tmp_path / "real/x/a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        entries = [
            {"id": k, "file_name": f"{tmp_path}/{folder}/x/a.jpg"}
            for k, folder in enumerate(("link", "real"))
        ]
        source = write_json(tmp_path / "m.json", {"images": entries})
        manifest, _ = made(source, root=tmp_path / "link")
        assert [image.path for image in manifest.images] == ["x/a.jpg", "x/a.jpg"]
        with refuses("E-MANIFEST-ROW", "/real/x", kind=ManifestError):
            made(source, root=tmp_path / "real/x")

    def test_one_image_in_two_files(self, tmp_path):
        picture(tmp_path / "train2014/COCO_train2014_000000000001.jpg")
        sources = [write_json(tmp_path / f"{k}_train2014.json", coco([1])) for k in "ab"]
        with refuses("E-MANIFEST-ID", "'1'", "name each image once", kind=ManifestError):
            made(*sources)

    def test_files_that_are_not_there_are_counted_and_stay(self, tmp_path):
        source = write_json(tmp_path / "mine.json", coco(range(50)))
        for k in range(0, 50, 2):
            picture(tmp_path / f"COCO_train2014_{k:012}.jpg")
        manifest, said = made(source)
        assert len(manifest.images) == 50
        assert said == [
            f"{source}: 25 of 50 images are not in {tmp_path}, "
            "such as COCO_train2014_000000000001.jpg"
        ]

    def test_no_file_in_any_layout(self, tmp_path):
        source = write_json(tmp_path / "instances_val2014.json", coco([7], "val2014"))
        with refuses(
            "E-MANIFEST-ABSENT",
            "none of its 1 image ",
            f"{tmp_path}/FILE_NAME or {tmp_path}/val2014/FILE_NAME",
            "such as COCO_val2014_000000000007.jpg",
            "--images",
            kind=ManifestError,
        ):
            made(source)

    def test_sizes_that_are_not_in_the_file_come_from_headers(self, tmp_path):
        picture(tmp_path / "a.jpg", 30, 20)
        source = write_json(tmp_path / "m.json", {"images": [{"id": 1, "file_name": "a.jpg"}]})
        assert made(source)[0].images == (Image("1", "a.jpg", 30, 20),)


# As published: cocodataset.org's download page and the papers' data sections.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("captions_val2014.json", 40_504),
        ("instances_val2017.json", 5_000),
        ("image_info_test2014.json", 40_775),
        ("image_info_test2017.json", 40_670),
        pytest.param("instances_train2014.json", 82_783, marks=pytest.mark.slow),
        pytest.param("image_info_test2015.json", 81_434, marks=pytest.mark.slow),
        pytest.param("person_keypoints_train2017.json", 118_287, marks=pytest.mark.slow),
    ],
)
def test_known_numbers_of_coco(tmp_path, name, number):
    images = [{"id": k, "file_name": f"{k}.jpg"} for k in range(number)]
    with logged() as said:
        read_listing(write_json(tmp_path / name, {"images": images}))
    assert said == []
    with logged() as said:
        read_listing(write_json(tmp_path / name, {"images": images[:-1]}))
    assert f"{name}: lists {number - 1:,} images; COCO " in said[0]
    assert said[0].endswith(f" has {number:,}")


def test_of_many_files_that_are_not_there_the_number_is_said(tmp_path):
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 4, "height": 3} for k in range(5_000)]
    picture(tmp_path / "0.jpg", 4, 3)
    said = made(write_json(tmp_path / "instances_val2017.json", {"images": images}))[1]
    assert len(said) == 1  # nothing on the count
    assert "4,999 of 5,000 images are not in" in said[0]


class TestKarpathy:
    def test_ids_are_those_of_coco(self, tmp_path):
        entry = {
            "filepath": "val2014",
            "sentids": [770337],
            "filename": "COCO_val2014_000000391895.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [{"tokens": ["a", "man"]}],
            "cocoid": 391895,
        }
        source = write_json(tmp_path / "mine.json", {"images": [entry], "dataset": "coco"})
        picture(tmp_path / "coco/val2014/COCO_val2014_000000391895.jpg", 40, 30)
        path = "val2014/COCO_val2014_000000391895.jpg"
        assert made(source, root=tmp_path / "coco")[0].images == (Image("391895", path, 40, 30),)
        flat = made(source, root=tmp_path / "coco/val2014")[0]
        assert flat.images == (Image("391895", "COCO_val2014_000000391895.jpg", 40, 30),)

    def test_ids_of_flickr30k_are_stems(self, tmp_path):
        entries = [
            {"filename": f"{name}.jpg", "imgid": k, "split": "train", "sentids": []}
            for k, name in enumerate(["1000092795", "10002456"])
        ]
        source = write_json(tmp_path / "dataset_flickr30k.json", {"images": entries})
        picture(tmp_path / "1000092795.jpg")
        picture(tmp_path / "10002456.jpg")
        manifest, said = made(source)
        assert [image.image_id for image in manifest.images] == ["1000092795", "10002456"]
        data_set = "Karpathy's dataset_flickr30k.json"
        assert [line.removeprefix(f"{source}: ") for line in said] == [
            f"lists 2 images; {data_set} has 31,014",
            f"lists 2 images of train; {data_set} has 29,000",
            f"lists 0 images of val; {data_set} has 1,014",
            f"lists 0 images of test; {data_set} has 1,000",
        ]

    @pytest.mark.parametrize(
        ("name", "splits"),
        [
            (
                "dataset_coco.json",
                {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000},
            ),
            ("dataset_flickr30k.json", {"train": 29_000, "val": 1_014, "test": 1_000}),
        ],
    )
    def test_known_numbers(self, tmp_path, name, splits):
        names = (split for split, number in splits.items() for _ in range(number))
        entries = [{"filename": f"{k}.jpg", "split": s, "cocoid": k} for k, s in enumerate(names)]
        path = write_json(tmp_path / name, {"images": entries})
        # The sizes of a hundred thousand files that are not there are not the point.
        with logged() as said:
            listing = read_listing(path)
        assert (listing.kind, len(listing.images), said) == ("Karpathy", sum(splits.values()), [])


class TestVisualGenome:
    ENTRIES = (
        {
            "width": 800,
            "url": "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg",
            "height": 600,
            "image_id": 1,
            "coco_id": None,
            "flickr_id": None,
        },
        {
            "width": 500,
            "url": "https://cs.stanford.edu/people/rak248/VG_100K/2343728.jpg",
            "height": 375,
            "image_id": 2343728,
            "coco_id": 1234,
            "flickr_id": 5,
        },
    )

    def test_files_stand_where_the_urls_say(self, tmp_path):
        source = write_json(tmp_path / "image_data.json", list(self.ENTRIES))
        picture(tmp_path / "VG_100K_2/1.jpg", 800, 600)
        picture(tmp_path / "VG_100K/2343728.jpg", 500, 375)
        manifest, said = made(source)
        assert manifest.images == (
            Image("1", "VG_100K_2/1.jpg", 800, 600),
            Image("2343728", "VG_100K/2343728.jpg", 500, 375),
        )
        assert said == [f"{source}: lists 2 images; Visual Genome has 108,077 or 108,249"]

    def test_or_all_in_one_folder(self, tmp_path):
        source = write_json(tmp_path / "mine.json", list(self.ENTRIES))
        picture(tmp_path / "all/1.jpg")
        picture(tmp_path / "all/2343728.jpg")
        manifest, _ = made(source, root=tmp_path / "all")
        assert [image.path for image in manifest.images] == ["1.jpg", "2343728.jpg"]

    def test_version_1_0_calls_the_number_id(self, tmp_path):
        """As its image_data.json has it; later versions say `image_id`."""
        entries = [{"id": e["image_id"], **e} for e in self.ENTRIES]
        for entry in entries:
            del entry["image_id"]
        source = write_json(tmp_path / "mine.json", entries)
        picture(tmp_path / "VG_100K_2/1.jpg", 800, 600)
        picture(tmp_path / "VG_100K/2343728.jpg", 500, 375)
        assert made(source)[0].images == (
            Image("1", "VG_100K_2/1.jpg", 800, 600),
            Image("2343728", "VG_100K/2343728.jpg", 500, 375),
        )


class TestListsOfTexts:
    """JSON lists whose rows are texts about images, named by the key `image`."""

    def test_llava(self, tmp_path):
        """As llava_v1_5_mix665k.json: `id` is that of a conversation, some rows have no image."""
        rows = [
            {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": []},
            {"id": "wgByO4Y_0", "model": "", "conversations": [{"from": "human", "value": "Hi"}]},
            {"id": "b7", "image": "coco/train2017/000000033471.jpg", "conversations": []},
            {"id": "VG_100K_2/2", "image": "vg/VG_100K_2/2.jpg", "conversations": []},
        ]
        source = write_json(tmp_path / "mix.json", rows)
        picture(tmp_path / "data/coco/train2017/000000033471.jpg")
        picture(tmp_path / "data/vg/VG_100K_2/2.jpg")
        manifest, said = made(source, root=tmp_path / "data")
        assert manifest.images == (
            Image("000000033471", "coco/train2017/000000033471.jpg", 64, 48),
            Image("2", "vg/VG_100K_2/2.jpg", 64, 48),
        )
        assert said == [
            f"{source}: rows that name no image: 1",
            f"{source}: rows that repeat an image: 1",
        ]
        by_path, _ = made(source, root=tmp_path / "data", ids="path")
        assert [i.image_id for i in by_path.images] == [
            "coco/train2017/000000033471",
            "vg/VG_100K_2/2",
        ]

    def test_two_data_sets_with_one_name(self, tmp_path):
        rows = [{"image": "gqa/images/2.jpg"}, {"image": "vg/VG_100K/2.jpg"}]
        source = write_json(tmp_path / "mix.json", rows)
        for row in rows:
            picture(tmp_path / row["image"])
        with refuses("E-MANIFEST-ID", "'2'", "--ids path", kind=ManifestError):
            made(source)
        assert len(made(source, ids="path")[0].images) == 2

    def test_blip_with_the_images_of_one_data_set_and_several_lists(self, tmp_path):
        """As coco_karpathy_train.json: a row for each caption, paths from the folder of COCO."""
        train = [
            {
                "caption": c,
                "image": "val2014/COCO_val2014_000000522418.jpg",
                "image_id": "coco_522418",
            }
            for c in "ab"
        ]
        test = [{"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["a", "b"]}, train[0]]
        sources = [write_json(tmp_path / f"{k}.json", rows) for k, rows in enumerate((train, test))]
        for number in (522418, 391895):
            picture(tmp_path / f"val2014/COCO_val2014_{number:012}.jpg")
        names = ["COCO_val2014_000000391895", "COCO_val2014_000000522418"]
        for root, prefix in ((tmp_path, "val2014/"), (tmp_path / "val2014", "")):
            manifest, said = made(*sources, root=root)
            assert [(i.image_id, i.path) for i in manifest.images] == [
                (name, f"{prefix}{name}.jpg") for name in names
            ]
            assert said == [f"{sources[0]}: rows that repeat an image: 1"]

    def test_rows_of_several_images(self, tmp_path):
        source = write_json(tmp_path / "m.json", [{"image": ["a.jpg", "b.jpg"]}, {"image": []}])
        picture(tmp_path / "a.jpg")
        picture(tmp_path / "b.jpg")
        manifest, said = made(source)
        assert [image.image_id for image in manifest.images] == ["a", "b"]
        assert said == [f"{source}: rows that name no image: 1"]

    def test_ids_of_annotations_stay_what_they_are(self, tmp_path):
        source = write_json(tmp_path / "m.json", coco([1]))
        with refuses("E-MANIFEST-OPTION", "drop --ids", kind=ManifestError):
            made(source, ids="path")


def test_files_of_two_kinds(tmp_path):
    picture(tmp_path / "COCO_train2014_000000000001.jpg")
    first = write_json(tmp_path / "a.json", coco([1]))
    second = write_json(tmp_path / "b.json", list(TestVisualGenome.ENTRIES))
    with refuses("E-MANIFEST-KINDS", "a.json is COCO", "b.json is Visual Genome"):
        made(first, second)
