"""timm's models as backbones, against timm's own forward pass and names."""

import contextlib
import copy
import hashlib
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from refused import refuses
from safetensors.torch import save_file
from towers import pixels_of, recipe_of, relative

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones import weights_sources
from clipfeat.extract.backbones.backbone import normalised
from clipfeat.extract.backbones.timm_models import choose_timm_weights
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.embedding import load_text_tower
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.self_test import deviation, make_reference

FAMILIES = [
    "test_resnet",
    "test_vit",  # a class token
    "test_vit2",  # a register token, no class token
    "vit_tiny_patch16_224",  # with 4 register tokens beside the class token, see `stock_model`
    "test_vit_relpos",  # no such token
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",  # channels last
    "test_maxvit",
    "swin_tiny_patch4_window7_224",  # channels last
]
REGISTERS = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True, scope="module")
def _fast_random_numbers():
    """Start weights from plain normal numbers: the truncated ones of timm take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "timm.layers.weight_init._trunc_normal_",
            lambda tensor, mean, std, *_: tensor.normal_(mean, std),
        )
        yield


def stock_model(name) -> Any:
    """Return timm's model, every parameter away from where it starts, less most blocks."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"reg_tokens": 4} if name == REGISTERS else {}
    model: Any = timm.create_model(name, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def spec_of(model, pretrained: Any = "none"):
    return BackboneSpec(model, None if pretrained is None else str(pretrained), 0, "float32")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A stock model, and the backbone of a file with its weights, classifier included."""
    name, path = request.param, tmp_path_factory.mktemp("weights") / "model.safetensors"
    stock = stock_model(name)
    save_file(stock.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        if name == REGISTERS:
            create = timm.create_model
            patch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, reg_tokens=4))
        backbone, described = load_backbone(spec_of(f"timm/{name}", path), "cpu")
    return stock, backbone, described


def as_grid(features, rows, cols, dim):
    """Return tokens, channels-first or channels-last maps as (image, row, col, dim)."""
    if features.ndim == 3:
        return features[:, features.shape[1] - rows * cols :].unflatten(1, (rows, cols))
    return features if features.shape[-1] == dim else features.permute(0, 2, 3, 1)


def check(backbone, stock, rows, cols):
    recipe = recipe_of(backbone, vector="embedding")
    pixels = pixels_of((rows * backbone.cell[0], cols * backbone.cell[1]))
    grid, vector = backbone.grids(pixels, recipe)
    with torch.no_grad():
        features = stock.forward_features(normalised(pixels, recipe))
        pooled = stock.forward_head(features, pre_logits=True)
    assert relative(grid, as_grid(features, rows, cols, backbone.dim)) <= 1e-5
    assert relative(vector, pooled) <= 1e-5
    assert vector.shape[1] == backbone.vector_dim(recipe)


def test_native_grids_and_pooled_vectors_are_timms(family):
    stock, backbone, _ = family
    height, width = backbone.native.height_width
    assert (3, height, width) == stock.pretrained_cfg["input_size"]
    assert backbone.native.mean == stock.pretrained_cfg["mean"]
    assert backbone.native.std == stock.pretrained_cfg["std"]
    check(backbone, stock, height // backbone.cell[0], width // backbone.cell[1])


@pytest.mark.filterwarnings("ignore")  # torch's, of how timm fits the tables of Swin
def test_other_sizes_are_those_of_timm(family):
    stock, backbone, _ = family
    backbone.grids(pixels_of((2 * backbone.cell[0], backbone.cell[1])), recipe_of(backbone))
    stock = copy.deepcopy(stock)
    if hasattr(stock, "set_input_size"):
        stock.set_input_size((3 * backbone.cell[0], 5 * backbone.cell[1]))
    check(backbone, stock, 3, 5)


def test_the_identity_is_of_the_tensors_without_the_classifier(family):
    stock, _, described = family
    heads = stock.pretrained_cfg["classifier"]
    digest = hashlib.sha256()
    for name, tensor in sorted(stock.state_dict().items()):
        if name not in (f"{heads}.weight", f"{heads}.bias"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    cfg = stock.pretrained_cfg
    tag = f".{cfg['tag']}" if "tag" in cfg else ""
    assert described == {
        "model": f"timm/{cfg['architecture']}{tag}",
        "pretrained": "file",
        "seed": None,
        "weights_sha256": digest.hexdigest(),
    }


@pytest.mark.parametrize(("layer", "block"), [("final-no-norm", -1), ("penultimate", -2)])
def test_the_layers_of_a_vit_are_the_outputs_of_its_blocks(layer, block, tmp_path):
    stock = stock_model("test_vit")
    save_file(stock.state_dict(), tmp_path / "a")
    backbone, _ = load_backbone(spec_of("timm/test_vit", tmp_path / "a"), "cpu")
    recipe = recipe_of(backbone, layer, "class_token")
    pixels, seen = pixels_of((160, 160)), []
    stock.blocks[block].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        stock(normalised(pixels, recipe))
    grid, token = backbone.grids(pixels, recipe)
    assert relative(grid, as_grid(seen[0], 10, 10, 64)) <= 1e-5
    assert relative(token, seen[0][:, 0]) <= 1e-5
    convolutions, _ = load_backbone(spec_of("timm/test_resnet"), "cpu")
    with refuses("E-RECIPE-LAYER", layer, kind=ExtractUsageError):
        convolutions.check_recipe(recipe_of(convolutions, layer))
    with refuses("E-RECIPE-VECTOR", "--class-token", kind=ExtractUsageError):
        convolutions.check_recipe(recipe_of(convolutions, "final", "class_token"))


def test_random_weights_are_those_of_their_seed():
    found = [load_backbone(BackboneSpec("timm/test_vit", "none", seed, "float32"), "cpu")[1]
             for seed in (0, 0, 1)]  # fmt: skip
    assert found[0] == found[1]
    assert found[0]["weights_sha256"] != found[2]["weights_sha256"]
    assert found[0]["model"] == "timm/test_vit.r160_in1k"
    assert [each["seed"] for each in found] == [0, 0, 1]


def test_a_tag_comes_from_the_hub(monkeypatch, tmp_path):
    save_file(stock_model("test_resnet").state_dict(), tmp_path / "a")
    asked = []
    monkeypatch.setattr(
        weights_sources, "cache_if_hub_unreachable", lambda: contextlib.nullcontext("")
    )
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *file: asked.append(file) or str(tmp_path / "a")
    )
    for model, tag in [
        ("timm/test_resnet.r160_in1k", None),
        ("timm/test_resnet", "r160_in1k"),
        ("timm/test_resnet", None),
    ]:
        _, described = load_backbone(spec_of(model, tag), "cpu")
        assert described["model"] == "timm/test_resnet.r160_in1k"
        assert described["pretrained"] == "r160_in1k"
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")] * 3


def test_a_hub_that_does_not_answer_is_one_error(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_: (_ for _ in ()).throw(OSError("not cached"))
    )
    with refuses("E-WEIGHTS-DOWNLOAD", "test_resnet", kind=ExtractUsageError):
        load_backbone(spec_of("timm/test_resnet", None), "cpu")


@pytest.mark.parametrize(
    ("model", "pretrained", "code", "part"),
    [
        ("timm/resnet5", "none", "E-MODEL-UNKNOWN", "timm/resnet50"),
        ("timm/vit_base_patch32_224_in21k", "none", "E-MODEL-UNKNOWN", "vit_base_patch32_224"),
        ("timm/resnet50.no_such_tag", "none", "E-MODEL-UNKNOWN", "a1_in1k"),
        ("timm/resnet50.a1_in1k", "a2_in1k", "E-WEIGHTS-CONTRADICTED", "a1_in1k"),
        ("timm/resnet50", "no_such_file.pt", "E-WEIGHTS-UNKNOWN", "a1_in1k"),
        ("timm/resnet50", "package", "E-WEIGHTS-UNKNOWN", "timm/tf_efficientnet_lite0"),
    ],
)
def test_a_wrong_name_is_refused_with_what_works(model, pretrained, code, part):
    with refuses(code, part, kind=ExtractUsageError):
        choose_timm_weights(spec_of(model, pretrained))


def test_a_file_of_another_model_is_refused(tmp_path):
    tensors = stock_model("test_vit").state_dict()
    save_file(tensors, tmp_path / "whole")
    with refuses("E-WEIGHTS-FIT", "test_resnet", kind=ExtractUsageError):
        load_backbone(spec_of("timm/test_resnet", tmp_path / "whole"), "cpu")
    lacking = {key: tensor for key, tensor in tensors.items() if key != "norm.bias"}
    save_file(lacking, tmp_path / "lacking")
    with refuses("E-WEIGHTS-FIT", "norm.bias", kind=ExtractUsageError):
        load_backbone(spec_of("timm/test_vit", tmp_path / "lacking"), "cpu")
    larger: Any = timm.create_model("test_vit", img_size=320)
    save_file(larger.state_dict(), tmp_path / "larger")
    with refuses("E-WEIGHTS-FIT", "(1, 401, 64)", "(1, 101, 64)", kind=ExtractUsageError):
        load_backbone(spec_of("timm/test_vit", tmp_path / "larger"), "cpu")


def test_a_classifier_of_ones_own_is_dropped_as_well(tmp_path):
    """And a file without a classifier is complete."""
    digests = set()
    stock = stock_model("test_resnet")
    for classes in (1000, 7, 0):
        stock.reset_classifier(classes)
        save_file(stock.state_dict(), tmp_path / "a")
        digests.add(
            load_backbone(spec_of("timm/test_resnet", tmp_path / "a"), "cpu")[1]["weights_sha256"]
        )
    assert len(digests) == 1


def test_a_model_without_a_grid_is_refused_by_name():
    with refuses("E-MODEL-GRID", "timm/pit_ti_224", "timm/resnet50", kind=ExtractUsageError):
        load_backbone(spec_of("timm/pit_ti_224"), "cpu")


def test_a_model_of_one_size_is_refused_at_others():
    backbone, _ = load_backbone(spec_of("timm/efficientformerv2_s0"), "cpu")
    recipe = recipe_of(backbone)
    assert backbone.grids(pixels_of((224, 224), 1), recipe)[0].shape == (1, 7, 7, backbone.dim)
    with refuses("E-RECIPE-SIZE", "224x224", "--recipe model", kind=ExtractUsageError):
        backbone.grids(pixels_of((192, 224), 1), recipe)


def test_timms_models_have_no_texts():
    with refuses("E-TEXTS-TOWER", "timm/test_vit", kind=ExtractUsageError):
        load_text_tower(spec_of("timm/test_vit"), "cpu")


def test_every_tag_has_a_preprocessing():
    """Those of VOLO pad what they resize; it has no grid."""
    for name in timm.list_pretrained(exclude_filters="volo*"):
        native = choose_timm_weights(spec_of(f"timm/{name}")).preprocess()
        assert native.steps((32, 32))


def test_doctor_knows_what_a_model_of_timm_must_give():
    reference = make_reference("timm/test_vit")
    assert deviation(load_backbone(spec_of("timm/test_vit"), "cpu")[0], reference) <= 1e-5
