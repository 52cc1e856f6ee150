"""The public files that the rows need: where they are published, and where they lie in DATA/."""

from typing import NamedTuple

UNKNOWN = "not checked"


class PublishedFile(NamedTuple):
    """One download, and what it is unpacked to."""

    place: str  # in DATA/
    name: str
    address: str
    size: str  # as its authors give it
    note: str = ""


COCO = "https://cocodataset.org/#download"
VQA = "https://visualqa.org/download.html"
VG = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
GQA = "https://cs.stanford.edu/people/dorarad/gqa/download.html"

FILES = (
    PublishedFile("coco/train2014/", "train2014.zip", COCO, "13 GB"),
    PublishedFile("coco/val2014/", "val2014.zip", COCO, "6 GB"),
    PublishedFile("coco/test2015/", "test2015.zip", COCO, "12 GB"),
    PublishedFile(
        "captions/", "captions_train2014.json, captions_val2014.json", COCO, "241 MB",
        "in annotations_trainval2014.zip",
    ),
    PublishedFile(
        "captions/", "dataset_coco.json", "https://cs.stanford.edu/people/karpathy/deepimagesent/",
        UNKNOWN, "Karpathy's splits, in caption_datasets.zip",
    ),
    PublishedFile(
        "vqa/",
        "v2_OpenEnded_mscoco_{train2014,val2014,test2015}_questions.json, "
        "v2_mscoco_{train2014,val2014}_annotations.json",
        VQA, UNKNOWN,
    ),
    PublishedFile("vg/VG_100K/, vg/VG_100K_2/", "images.zip, images2.zip", VG, UNKNOWN),
    PublishedFile(
        "vg/", "image_data.json, question_answers.json, region_descriptions.json", VG, UNKNOWN,
        "copy question_answers.json into vqa/, too",
    ),
    PublishedFile("gqa/images/", "images.zip", GQA, UNKNOWN),
    PublishedFile(
        "gqa/", "{train,val,testdev}_balanced_questions.json", GQA, "1.4 GB", "in questions1.2.zip"
    ),
    PublishedFile(
        "flickr30k/flickr30k-images/", "flickr30k-images.tar.gz",
        "https://shannon.cs.illinois.edu/DenotationGraph/", UNKNOWN, "on request, by a form",
    ),
    PublishedFile(
        "snli_ve/", "snli_ve_{train,dev,test}.jsonl", "https://github.com/necla-ml/SNLI-VE", UNKNOWN
    ),
    PublishedFile(
        "lxmert/", "mscoco_minival.json", "https://github.com/airsplay/lxmert", UNKNOWN,
        "the images that LXMERT holds out",
    ),
    PublishedFile(
        "glove/", "glove.6B.300d.txt", "https://nlp.stanford.edu/projects/glove/", UNKNOWN,
        "in glove.6B.zip",
    ),
    PublishedFile(
        "bottom-up/", "trainval.tsv, test2015.tsv",
        "https://github.com/peteanderson80/bottom-up-attention", "23 to 25 GB a zip",
        "36 regions an image. The links have been dead since 2025 (its issue 132): ask others for a "
        "copy, or run its tools/generate_tsv.py",
    ),
    PublishedFile(
        "mp3d/views/", "<scan>/<viewpoint>/{0..35}.jpg",
        "https://niessner.github.io/Matterport/", UNKNOWN,
        "rendered from its skyboxes by the Matterport3D simulator, 640 x 480 and 60 degrees high, "
        "in the order of its views (docs/recipes.md); on request, by a form",
    ),
    PublishedFile(
        "mp3d/connectivity/", "<scan>_connectivity.json",
        "https://github.com/peteanderson80/Matterport3DSimulator", "24 MB",
    ),
    PublishedFile(
        "r2r/", "R2R_{train,val_seen,val_unseen,test}.json",
        "https://github.com/peteanderson80/Matterport3DSimulator", "6 MB",
        "by its tasks/R2R/data/download.sh",
    ),
    PublishedFile(
        "rxr/", "rxr_{train,val_seen,val_unseen}_guide.jsonl.gz",
        "https://github.com/google-research-datasets/RxR", "97 MB",
    ),
    PublishedFile(
        "grid-feats/trainval/, grid-feats/test2015/", "<number>.pth",
        "https://github.com/facebookresearch/grid-feats-vqa", "about 320 GB for test2015",
        "made by its extract_grid_feature.py with the published X-101; the size is a user's "
        "(its issue 34)",
    ),
)  # fmt: skip
