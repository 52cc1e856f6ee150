"""Every row of the paper's tables: commands, published number, sizes. The single source of them.

Command lines are as a user types them. DATA/ is the folder of the public files (`files.py`), and
OUT/ that of everything made from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

COCO, VG, TEST2015 = 82_783 + 40_504, 108_077, 81_434  # images
KARPATHY, GQA, FLICKR30K = 123_287, 113_000, 31_014
SECONDS = 3600
FLOAT32, BFLOAT16 = 20e12, 100e12  # operations/s that a GPU is taken to reach

README = "README of clip-vil/CLIP-ViL"
NOT_FOUND = "not found"


@dataclass(frozen=True)
class Encoder:
    """What gives the features of a row."""

    name: str
    title: str
    dim: int
    model: str = ""  # options of clipfeat extract; "": features of another program
    is_vit: bool = False
    note: str = ""


ENCODERS = (
    Encoder("rn50", "CLIP RN50", 2048, "--model RN50 --pretrained openai"),
    Encoder("rn101", "CLIP RN101", 2048, "--model RN101 --pretrained openai"),
    Encoder("rn50x4", "CLIP RN50x4", 2560, "--model RN50x4 --pretrained openai"),
    Encoder(
        "vit-b32",
        "CLIP ViT-B/32",
        768,
        "--model ViT-B-32 --pretrained openai",
        is_vit=True,
        note="published grids had position tables of zeros (clip-vil/CLIP-ViL#13, #20): expect more "
        "than was published",
    ),
    Encoder("imagenet-rn50", "ImageNet ResNet-50", 2048, "--model timm/resnet50.tv_in1k"),
    Encoder("imagenet-rn101", "ImageNet ResNet-101", 2048, "--model timm/resnet101.tv_in1k"),
    Encoder(
        "vit-21k",
        "ImageNet-21k ViT-B/32",
        768,
        "--model timm/vit_base_patch32_224.augreg_in21k",
        is_vit=True,
    ),
    Encoder(
        "bottom-up",
        "BottomUp-TopDown regions",
        2048,
        note="36 regions an image, of a detector that was trained on Visual Genome",
    ),
    Encoder(
        "grid-feats",
        "grid-feats, X-101",
        2048,
        note="grids of a detector that was trained on Visual Genome; their shape differs by image",
    ),
)
EXTERNAL = {"bottom-up": "bottom-up-tsv", "grid-feats": "grid-feats"}  # formats of clipfeat import
PRETRAINED = ENCODERS[0], ENCODERS[2]


@dataclass(frozen=True)
class Step:
    """A command, and the file that exists once it has ended; steps that make one file are one."""

    made: str
    command: str


@dataclass(frozen=True)
class Row:
    """One number of a table, and how to get it."""

    name: str
    table: str
    title: str
    steps: tuple[Step, ...]
    published: str = NOT_FOUND  # with its source
    ours: str = "not measured"
    stores: float = 0.0  # bytes of features, before compression
    hours: float = 0.0  # of training on one GPU, from the number of operations
    note: str = ""


PUBLISHED = {
    "vqa-pythia-rn50x4": f"68.37 test-dev ({README})",
    "vqa-mcan-rn50x4": f"74.01 test-dev ({README}), 74.17 test-std (arXiv:2204.13631)",
    "caption-scst-rn50x4": "CIDEr 134.2, BLEU-4 40.2, METEOR 29.7, SPICE 23.8 of its best encoder "
    "(tables of later papers)",
    "caption-scst-vit-b32": "CIDEr 58.0 (jianjieluo/OpenAI-CLIP-Feature, which quotes the paper)",
    "vqa-pretrained-rn50x4": f"76.48 test-dev, 76.70 test-std ({README})",
    "gqa-pretrained-rn50x4": f"61.42 test-dev, 62.93 test-std ({README})",
    "ve-pretrained-rn50x4": f"80.61 dev, 80.20 test ({README})",
}
RERUNS = {
    "vqa-pythia-rn50x4": "others measured 66.17 with mmf's features (arXiv:2204.13631)",
    "vqa-mcan-rn50x4": "others measured 71.75 on half of val, trained on train (arXiv:2204.13631)",
    "caption-scst-rn101": "others measured CIDEr 134.2 (jianjieluo/OpenAI-CLIP-Feature)",
    "caption-scst-vit-b32": "others measured CIDEr 129.6 with right positions (the same)",
    "caption-scst-bottom-up": "others measured CIDEr 130.0 in the same setting (the same)",
}


def rows() -> tuple[Row, ...]:
    """Return all rows, table by table."""
    return (*_vqa_rows(), *_caption_rows(), *_pretrained_rows(), *_navigation_rows())


# Features


def _manifest(name: str, sources: str) -> Step:
    out = f"OUT/images/{name}.parquet"
    return Step(out, f"clipfeat manifest {sources} -o {out}")


VQA_IMAGES = _manifest(
    "vqa",
    "DATA/coco/train2014 DATA/coco/val2014 DATA/coco/test2015 DATA/vg/VG_100K DATA/vg/VG_100K_2",
)
CAPTION_IMAGES = _manifest("caption", "DATA/captions/dataset_coco.json --images DATA/coco")
GQA_IMAGES = _manifest("gqa", "DATA/gqa/images")
FLICKR_IMAGES = _manifest("flickr30k", "DATA/flickr30k/flickr30k-images")


def _extract(encoder: Encoder, images: Step, store: str, recipe: str, layer: str = "") -> Step:
    chosen = f" --layer {layer}" if layer and encoder.is_vit else ""
    return Step(
        f"{store}/store.json",
        f"clipfeat extract --images {images.made} {encoder.model} --recipe {recipe}{chosen} "
        f"--out {store}",
    )


def _import(encoder: Encoder) -> tuple[Step, str]:
    """Features of another program, of COCO's train, val and test; and their store."""
    kind, store = EXTERNAL[encoder.name], f"OUT/stores/{encoder.name}.clipfeat"
    ending = ".tsv" if kind.endswith("tsv") else ""
    sources = " ".join(f"DATA/{encoder.name}/{part}{ending}" for part in ("trainval", "test2015"))
    return Step(f"{store}/store.json", f"clipfeat import {sources} --as {kind} -o {store}"), store


# Tasks

GLOVE = "--set model.glove=DATA/glove/glove.6B.300d.txt"
# Operations of an update for one question, forward and backward, at 558 cells: the measured time of
# a step on a CPU with 196 cells, times the 0.15e12 operations/s that it reaches there, times 558/196.
QUESTION = {"pythia": 0.080e12, "mcan": 0.76e12}
QUESTIONS = {"pythia": 22_000 * 512, "mcan": 236_000 * 64}


def _vqa_rows() -> Iterator[Row]:
    for model in ("pythia", "mcan"):
        for encoder in ENCODERS:
            yield _vqa_row(encoder, model)


def _vqa_row(encoder: Encoder, model: str) -> Row:
    name = f"vqa-{model}-{encoder.name}"
    regions = encoder.name == "bottom-up"
    preset = {"pythia": "pythia", "mcan": "mcan_small" if regions else "movie_mcan"}[model]
    # Pythia of the paper learns from train alone, and MCAN from all that there is.
    parts = "train+val" if encoder.name in EXTERNAL else "train+val+vg"
    splits = "" if model == "pythia" else f" --set train_split={parts} --set eval_split="
    run = f"OUT/runs/{name}"
    glove = "" if regions and model == "mcan" else f" {GLOVE}"
    if encoder.name in EXTERNAL:
        imported, store = _import(encoder)
        features = [imported]
        cells = COCO + TEST2015, 36 if regions else 600
    else:
        # The published extractors of the two took different layers of a ViT.
        layer = {"pythia": "penultimate", "mcan": "final"}[model]
        store = f"OUT/stores/vqa-{encoder.name}{f'-{layer}' if encoder.is_vit else ''}.clipfeat"
        features = [VQA_IMAGES, _extract(encoder, VQA_IMAGES, store, "vqa600", layer)]
        cells = COCO + VG + TEST2015, 18 * 31
    train = (
        f"clipfeat train vqa {preset} --store {store} --data DATA/vqa --out {run}{splits}{glove}"
    )
    steps = (
        *features,
        Step(f"{run}/result.json", train),
        Step(
            f"{run}/predictions_test.json",
            f"clipfeat eval vqa {run} --split test --data DATA/vqa",
        ),
    )
    notes = [encoder.note, RERUNS.get(name, "")]
    if model == "mcan" and encoder.model.endswith("openai"):
        notes.append("published with a detector's features for Visual Genome's images")
    if regions and model == "mcan":
        notes.append("MoVie's branch needs a grid, so this is plain MCAN")
    return Row(
        name,
        "VQA v2, " + {"pythia": "Pythia", "mcan": "MCAN (MoVie+MCAN)"}[model],
        encoder.title,
        steps,
        PUBLISHED.get(name, NOT_FOUND),
        stores=float(cells[0] * cells[1] * encoder.dim * (4 if regions else 2)),
        hours=QUESTION[model] * QUESTIONS[model] / FLOAT32 / SECONDS * (36 / 558 if regions else 1),
        note="; ".join(filter(None, notes)),
    )


# Of an image with its five captions: 6 layers over 196 cells and 6 over 5 x 17 words, of 4.2 million
# weights each, 6 operations a weight, doubled for attention and the vocabulary; 15 epochs of it. The
# second stage draws and scores five captions and a greedy one word by word, for 25 epochs.
CAPTION = 6 * 6 * 4.2e6 * (196 + 5 * 17) * 2 * 113_287


def _caption_rows() -> Iterator[Row]:
    for stage in ("xe", "scst"):
        for encoder in ENCODERS:
            yield _caption_row(encoder, stage)


def _caption_row(encoder: Encoder, stage: str) -> Row:
    name, run = f"caption-{stage}-{encoder.name}", f"OUT/runs/caption-{encoder.name}"
    if encoder.name in EXTERNAL:
        imported, store = _import(encoder)
        features = [imported]
        images, cells = COCO + TEST2015, 36 if encoder.name == "bottom-up" else 600
    else:
        store = f"OUT/stores/caption-{encoder.name}.clipfeat"
        features = [
            CAPTION_IMAGES,
            _extract(encoder, CAPTION_IMAGES, store, "caption448", "final-no-norm"),
        ]
        images, cells = KARPATHY, 14 * 14
    stages = ("xe",) if stage == "xe" else ("xe", "scst")
    trained = [
        Step(
            f"{run}/{each}/result.json",
            f"clipfeat train caption transformer --store {store} --data DATA/captions --out {run} "
            f"--stage {each}",
        )
        for each in stages
    ]
    scored = Step(
        f"{run}/{stage}/predictions_test.json",
        f"clipfeat eval caption {run}/{stage} --split test --beam 5",
    )
    return Row(
        name,
        "Captions of COCO, " + {"xe": "cross-entropy", "scst": "self-critical"}[stage],
        encoder.title,
        (*features, *trained, scored),
        PUBLISHED.get(name, NOT_FOUND),
        stores=float(images * cells * encoder.dim * (4 if encoder.name == "bottom-up" else 2)),
        hours=CAPTION * (15 if stage == "xe" else 15 + 2 * 25) / FLOAT32 / SECONDS,
        note="; ".join(filter(None, [encoder.note, RERUNS.get(name, "")])),
    )


# Texts of both stages, each of 20 pieces and 100 cells through BERT's 127 million weights; all 240
# cells of 632,000 questions of VQA v2, five times.
PRETRAINING = (161_000 + 197_000) * 512 * 6 * 127e6 * 120
FINETUNING = {
    "vqa": 5 * 632_000 * 6 * 127e6 * 260,
    "gqa": 5 * 1_075_000 * 6 * 127e6 * 260,
    "ve": 5 * 529_527 * 6 * 127e6 * 260,
}
CORPUS = Step(
    "OUT/corpus/mscoco_minival.json",
    "clipfeat corpus --captions DATA/captions --vqa DATA/vqa --visual-genome DATA/vg "
    "--gqa DATA/gqa --held-out DATA/lxmert/mscoco_minival.json --out OUT/corpus",
)
HALVES = [
    f"{kind}_{half}" for half in ("nominival", "minival") for kind in ("questions", "annotations")
]
OFFICIAL = [
    f"v2_{kind}" for part in ("train2014", "val2014")
    for kind in (f"OpenEnded_mscoco_{part}_questions", f"mscoco_{part}_annotations")
]  # fmt: skip
HALVED_VQA = Step(
    "OUT/vqa/annotations_minival.json",
    "install -D -m 644 -t OUT/vqa "
    + " ".join(
        [
            *(f"DATA/vqa/{name}.json" for name in OFFICIAL),
            *(f"OUT/corpus/{name}.json" for name in HALVES),
        ]
    ),
)


def _pretrained_rows() -> Iterator[Row]:
    for task in ("vqa", "gqa", "ve"):  # outside, since a table is of one task
        for encoder in PRETRAINED:
            yield _pretrained_row(encoder, task)


def _pretrained_row(encoder: Encoder, task: str) -> Row:
    name, out = f"{task}-pretrained-{encoder.name}", f"OUT/runs/pretrained-{encoder.name}"
    store = f"OUT/stores/pretrain-{encoder.name}.clipfeat"
    larger = encoder.name == "rn50x4"
    # The paper's rates and batches differ between the two encoders.
    first = " --set lr=5e-5 --set batch_size=480" if larger else ""
    second = " --set lr=2.75e-5 --set batch_size=480" if larger else ""
    pretraining = (
        VQA_IMAGES,
        _extract(encoder, VQA_IMAGES, store, "pretrain384"),
        CORPUS,
        Step(
            f"{out}/stage1/result.json",
            f"clipfeat train pretrain stage1 --store {store} --data OUT/corpus "
            f"--out {out}/stage1{first}",
        ),
        Step(
            f"{out}/stage2/result.json",
            f"clipfeat train pretrain stage2 --store {store} --data OUT/corpus "
            f"--out {out}/stage2 --init {out}/stage1{second}",
        ),
    )
    images, title, cells = {
        "vqa": (None, "VQA v2", 0),
        "gqa": (GQA_IMAGES, "GQA", GQA),
        "ve": (FLICKR_IMAGES, "SNLI-VE", FLICKR30K),
    }[task]
    own: list[Step] = []
    if images is not None:
        store = f"OUT/stores/{task}-{encoder.name}.clipfeat"
        own = [images, _extract(encoder, images, store, "pretrain384")]
    run, init = f"{out}/{task}", f"--init {out}/stage2"
    tuned = {
        "vqa": [
            HALVED_VQA,
            Step(
                f"{run}/result.json",
                f"clipfeat train vqa finetune --store {store} --data OUT/vqa --out {run} {init}",
            ),
            Step(
                f"{run}/predictions_test.json",
                f"clipfeat eval vqa {run} --split test --data DATA/vqa",
            ),
        ],
        "gqa": [
            Step(
                f"{run}/result.json",
                f"clipfeat train vqa finetune_gqa --store {store} --data DATA/gqa --out {run} {init}",
            )
        ],
        "ve": [
            Step(
                f"{run}/result.json",
                f"clipfeat train ve finetune --store {store} --data DATA/snli_ve --out {run} {init}",
            ),
            Step(f"{run}/predictions_test.jsonl", f"clipfeat eval ve {run} --split test"),
        ],
    }[task]
    return Row(
        name,
        f"{title}, fine-tuned from pre-training (CLIP-ViL_p)",
        encoder.title,
        (*pretraining, *own, *tuned),
        PUBLISHED.get(name, NOT_FOUND),
        stores=float((COCO + VG + TEST2015 + cells) * 240 * encoder.dim * 2),
        hours=(PRETRAINING + FINETUNING[task]) / BFLOAT16 / SECONDS,
        note="the backbone stays frozen, and the paper trains it: expect less",
    )


# Operations of an update, 6 a weight: a follower's 5.8 million weights at 15 steps and 29 words of 128
# episodes; a speaker's 4.3 million at 7 steps and 2.9 at 30 words of 64 paths; the last stage is two of the
# former and, forward, one of the latter. RxR's words are 110, in three languages.
FOLLOWER, SPEAKER = 0.08e12, 0.045e12
NAVIGATION = {
    "r2r": 80_000 * (FOLLOWER + SPEAKER) + 100_000 * (2 * FOLLOWER + SPEAKER / 3),
    "rxr": 3 * 200_000 * 2.5 * FOLLOWER,
}
VIEWPOINTS = 10_567
EMBEDDING = {"rn50": 1024, "rn101": 512, "rn50x4": 640, "vit-b32": 512, "imagenet-rn50": 2048}
LANGUAGES = ("en", "hi-IN", "te-IN")  # an agent for each
VIEWS = _manifest("views", "--views DATA/mp3d/views")


def _navigation_rows() -> Iterator[Row]:
    for data in ("r2r", "rxr"):
        for encoder in ENCODERS[:5]:
            yield _navigation_row(encoder, data)


def _navigation_row(encoder: Encoder, data: str) -> Row:
    name, store = f"navigation-{data}-{encoder.name}", f"OUT/stores/views-{encoder.name}.clipfeat"
    run, given = f"OUT/runs/{name}", "--graphs DATA/mp3d/connectivity"
    train = f"clipfeat train nav {data} --store {store} --data DATA/{data} {given} --out {run}"
    trained = {
        "r2r": [
            Step(
                f"{run}/backtranslation/result.json",
                f"{train} --stage follower,speaker,backtranslation",
            ),
            Step(
                f"{run}/submission.json",
                f"clipfeat eval nav {run} --split test --submission {run}/submission.json",
            ),
        ],
        "rxr": [
            Step(
                f"{run}-{language}/follower/result.json",
                f"{train}-{language} --set languages={language}",
            )
            for language in LANGUAGES
        ],
    }[data]
    published = {
        "r2r": "success 59.2 on val unseen (listing of wizwand.com)",
        "rxr": "success 42.6 on val unseen (listing of wizwand.com)",
    }[data]
    notes = {
        "r2r": "small operations, of which a GPU does few at a time: expect more hours than these; the "
        "published code took about 36 (airsplay/R2R-EnvDrop#6)",
        "rxr": "success is the mean over the instructions of three agents; hours are too few as for R2R",
    }
    return Row(
        name,
        f"Navigation, {'R2R' if data == 'r2r' else 'RxR'}",
        encoder.title,
        (VIEWS, _extract(encoder, VIEWS, store, "views"), *trained),
        f"{published}, of its best encoder" if encoder.name == "rn50x4" else NOT_FOUND,
        stores=float(VIEWPOINTS * 36 * EMBEDDING[encoder.name] * 2),
        hours=NAVIGATION[data] / FLOAT32 / SECONDS,
        note=notes[data],
    )
