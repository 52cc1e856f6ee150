"""Real weights against values that others have published for them.

The weights are OpenAI's of ViT-B/32, on the Hugging Face hub `openai/clip-vit-base-patch32`. The
values are facts from the tests of two other libraries:

- Bumblebee (test/bumblebee/vision/clip_vision_test.exs): output of the image tower for an image
  whose normalised pixels are all 0.5, which needs no file.
- transformers (tests/models/clip/test_modeling_clip.py, CLIPModelIntegrationTest): logits of two
  texts for the image 000000039769 of COCO val2017.
"""

import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from msgspec.structs import replace

from ..base.errors import ClipfeatError, reason_of
from ..manifests import folder_manifest
from .api import extract_images
from .backbones.backbone import Backbone
from .backbones.weights import load_backbone
from .embedding import load_text_tower
from .facts import HUB_SECONDS, Check, fact, passed
from .planning.config import ExtractConfig
from .planning.plan import BackboneSpec
from .planning.recipe import make_recipe

MODEL = "ViT-B-32-quickgelu"
# Channels 1 to 3 of the first three patches before the last norm, and of the class token after it.
PATCHES = ((0.3465, -0.3939, -0.5297), (0.3588, -0.2529, -0.5606), (0.3958, -0.2688, -0.5367))
CLASS_TOKEN = (0.3602, 0.3658, -0.2337)
VALUE_TOLERANCE = 1e-4  # absolute, that of the test
TEXTS = ("a photo of a cat", "a photo of a dog")
LOGITS = (24.5701, 19.3049)
LOGIT_SCALE = 100.0  # to which OpenAI's training clips it, and at which it ended
LOGIT_TOLERANCE = 1e-3  # absolute and relative, that of the test
IMAGE_URL = "http://images.cocodataset.org/val2017/000000039769.jpg"
MAX_IMAGE_BYTES = 1 << 20


def check_published(weights: str, image: Path | None) -> Iterator[Check]:
    """Yield what the weights give beside what is published; `image` is the one of COCO.

    `weights` is a file, or the tag "openai". Without a network, weights or an image that would have
    to be downloaded are a fact and not a failure.
    """
    spec = BackboneSpec(MODEL, weights, 0, "float32")
    try:
        backbone, _ = load_backbone(spec, "cpu")
    except ClipfeatError as error:
        missing = error.code == "E-WEIGHTS-DOWNLOAD"
        text = f"not compared: {error}"
        yield fact("published", text) if missing else passed("published", text, good=False)
        return
    yield check_values(backbone)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            copy_image(image, folder)
        except OSError as error:
            text = f"texts not compared: {image or IMAGE_URL}: {reason_of(error)}"
            if image is None:
                yield fact("published", f"{text}; where there is no network, pass it with --image")
            else:
                yield passed("published", text, good=False)
            return
        yield check_logits(spec, folder)


def check_values(backbone: Backbone) -> Check:
    """Compare the tower's output for normalised pixels of 0.5 with the published numbers."""
    grey = replace(
        make_recipe("model", backbone.native, backbone.cell, vector="class_token"),
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
    )
    white = torch.full((1, *backbone.native.height_width, 3), 255, dtype=torch.uint8)
    grids, _ = backbone.grids(white, replace(grey, layer="final-no-norm"))
    _, tokens = backbone.grids(white, grey)
    assert tokens is not None
    values = torch.cat((grids[0, 0, :3, 1:4], tokens[:, 1:4]))
    error = (values - torch.tensor((*PATCHES, CLASS_TOKEN))).abs().max().item()
    text = (
        f"grey image, {MODEL}: 12 values differ by at most {error:.1e} from those of Bumblebee's "
        f"tests (at most {VALUE_TOLERANCE:g})"
    )
    return passed("published", text, good=error <= VALUE_TOLERANCE, largest_difference=error)


def copy_image(image: Path | None, folder: Path) -> None:
    """Copy the image, or download it, into `folder`; raises OSError."""
    target = folder / "cats.jpg"
    if image is not None:
        shutil.copyfile(image, target)
        return
    with urllib.request.urlopen(IMAGE_URL, timeout=HUB_SECONDS) as answer:
        target.write_bytes(answer.read(MAX_IMAGE_BYTES))


def check_logits(spec: BackboneSpec, folder: Path) -> Check:
    """Extract the image in `folder`, and compare it with the texts as CLIP does."""
    config = ExtractConfig(
        model=spec.model, pretrained=spec.pretrained, recipe="model", vector="embedding",
        device="cpu", precision=spec.precision, dtype="float32", decoders=1,
    )  # fmt: skip
    store = extract_images(folder_manifest(folder), folder / "cats.clipfeat", config).store
    pooled = store.read(store.ids).pooled
    assert pooled is not None
    image = torch.nn.functional.normalize(torch.from_numpy(pooled[0]), dim=0)
    texts = torch.from_numpy(load_text_tower(spec, "cpu")[0].embed(TEXTS))
    logits = LOGIT_SCALE * texts @ image
    listed, expected = (", ".join(f"{v:.4f}" for v in row) for row in (logits.tolist(), LOGITS))
    text = f"two texts: logits {listed}, published in transformers' tests {expected}"
    good = torch.allclose(logits, torch.tensor(LOGITS), LOGIT_TOLERANCE, LOGIT_TOLERANCE)
    return passed("published", text, good=good, logits=logits.tolist(), expected=LOGITS)
