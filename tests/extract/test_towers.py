"""Every family of towers against stock open_clip, and against formulas written by hand."""

import copy
from typing import Any

import msgspec
import pytest
import timm
import torch
from refused import refuses
from torch.nn import functional
from towers import backbone_around, pixels_of, recipe_of, relative, stock_model

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.backbone import normalised

# One of each family, with the module whose output (input: "<") stock open_clip pools.
FAMILIES = {
    "RN50": "layer4",
    "ViT-S-32": "ln_post",
    "ViT-S-32-alt": "ln_post",  # layer scale
    "ViT-B-32-quickgelu": "ln_post",
    "coca_ViT-B-32": "transformer",  # attentional pooling
    "ViT-L-14-CLIPA": "transformer",  # no norm before the blocks, one after pooling
    "EVA02-B-16": "trunk.norm",  # rotary and absolute positions
    "PE-Core-T-16-384": "trunk.norm",  # the same, and a class token under attention pooling
    "ViT-B-32-SigLIP2-256": "trunk.norm",
    "MobileCLIP2-B": "trunk.norm",  # convolutions before the blocks
    "ViTamin-S": "trunk.norm",
    "vit_medium_patch16_gap_256": "trunk.norm",
    "vit_relpos_medium_patch16_cls_224": "trunk.norm",
    "convnext_tiny": "<trunk.head",
    "MobileCLIP2-S0": "<trunk.head",  # FastViT
    "swin_base_patch4_window7_224": "trunk.norm",
}


LARGE = ("ViT-L-14-CLIPA", "EVA02-B-16", "swin_base_patch4_window7_224", "MobileCLIP2-B")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in FAMILIES
    ],
)
def family(request):
    model = stock_model(request.param)
    return request.param, model, backbone_around(model, request.param)


def seen_by_pooling(name, visual, images) -> Any:
    """Return (what pooling reads, embedding) of stock open_clip's own forward pass."""
    seen: list[Any] = []
    module = visual.get_submodule(FAMILIES[name].removeprefix("<"))
    if FAMILIES[name].startswith("<"):
        hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    else:
        hook = module.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        output = visual(images)
    hook.remove()
    return seen[-1], output[0] if isinstance(output, tuple) else output


def as_grid(features, backbone, rows, cols):
    """Return tokens, channels-first or channels-last maps as (image, row, col, dim)."""
    if features.ndim == 3:
        return features[:, features.shape[1] - rows * cols :].unflatten(1, (rows, cols))
    return features if features.shape[-1] == backbone.dim else features.permute(0, 2, 3, 1)


def test_native_grids_and_embeddings_are_stock_open_clips(family):
    name, model, backbone = family
    recipe = recipe_of(backbone, vector="embedding")
    side, _ = backbone.native.height_width
    pixels = pixels_of((side, side))
    features, embedding = seen_by_pooling(name, model.visual, normalised(pixels, recipe))
    grid, vector = backbone.grids(pixels, recipe)
    expected = as_grid(features, backbone, side // backbone.cell[0], side // backbone.cell[1])
    assert relative(grid, expected) <= 1e-5
    assert relative(vector, embedding) <= 1e-5
    with torch.no_grad():
        encoded = model.encode_image(normalised(pixels, recipe))
    normed = functional.normalize(vector, dim=-1)  # CoCa's encode_image norms
    assert relative(normed, functional.normalize(encoded, dim=-1)) <= 1e-5
    assert vector.shape[1] == backbone.vector_dim(recipe) == backbone.pooled_dim


@pytest.mark.filterwarnings("ignore")  # torch's, of how timm fits the tables of Swin
def test_other_sizes_are_fitted_from_the_original_tables(family):
    """Once through other sizes, then to one that stock open_clip is set to directly."""
    name, model, backbone = family
    recipe = recipe_of(backbone, vector="embedding")
    height, width = backbone.cell
    for rows, cols in ((1, 1), (2, 9)):
        pixels = pixels_of((rows * height + height - 1, cols * width + 1), 1)  # with a remainder
        assert backbone.grids(pixels, recipe)[0].shape == (1, rows, cols, backbone.dim)
    pixels = pixels_of((3 * height, 5 * width))
    grid, vector = backbone.grids(pixels, recipe)
    visual = copy.deepcopy(model.visual)
    if hasattr(visual, "set_input_size"):
        visual.set_input_size((3 * height, 5 * width))
    else:
        owner = getattr(visual, "attnpool", visual)
        side = int((len(owner.positional_embedding) - 1) ** 0.5)
        owner.positional_embedding.data = by_hand(owner.positional_embedding, side, (3, 5))
    features, embedding = seen_by_pooling(name, visual, normalised(pixels, recipe))
    assert relative(grid, as_grid(features, backbone, 3, 5)) <= 1e-5
    assert relative(vector, embedding) <= 1e-5


def by_hand(table, side, size):
    """Fit a table with a class token's row to `size` by torch's own function, step by step."""
    image = table[1:].T.reshape(1, -1, side, side)
    fitted = functional.interpolate(image, size, mode="bicubic", antialias=True)
    return torch.cat([table[:1], fitted.reshape(table.shape[1], -1).T]).detach()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_stay_near(family, precision):
    name, model, backbone = family
    recipe = recipe_of(backbone)
    pixels = pixels_of((3 * backbone.cell[0], 5 * backbone.cell[1]), 1)
    low, _ = backbone_around(model, name, precision).grids(pixels, recipe)
    cosine = functional.cosine_similarity(low.float(), backbone.grids(pixels, recipe)[0], dim=-1)
    assert low.dtype == getattr(torch, precision)
    assert cosine.mean() >= 0.999


@pytest.mark.parametrize(
    "name", ["RN50", "ViT-S-32", "PE-Core-T-16-384", "convnext_tiny", "MobileCLIP2-S0"]
)
def test_bits_depend_neither_on_threads_nor_on_the_batch(name):
    model = stock_model(name)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            backbone = backbone_around(model, name)
            recipe = recipe_of(backbone, vector="embedding")
            pixels = pixels_of((3 * backbone.cell[0], 2 * backbone.cell[1]), 8)
            found.append(backbone.grids(pixels, recipe))
            parts = [backbone.grids(part, recipe) for part in pixels.split(4)]
            found.append(tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    finally:
        torch.set_num_threads(threads)
    for grid, vector in found[1:]:
        assert torch.equal(grid, found[0][0])
        assert torch.equal(vector, found[0][1])


class TestLayers:
    """`penultimate` and `final-no-norm` against hooks on the blocks of stock open_clip."""

    @pytest.mark.parametrize(
        ("name", "blocks"),
        [
            ("ViT-S-32", "transformer.resblocks"),
            ("coca_ViT-B-32", "transformer.resblocks"),
            ("ViTamin-S", "trunk.blocks"),
            ("EVA02-B-16", "trunk.blocks"),
            ("vit_relpos_medium_patch16_cls_224", "trunk.blocks"),
        ],
    )
    @pytest.mark.parametrize(("layer", "block"), [("final-no-norm", -1), ("penultimate", -2)])
    def test_layers_are_the_outputs_of_blocks(self, name, blocks, layer, block):
        model = stock_model(name)
        backbone = backbone_around(model, name)
        recipe = recipe_of(backbone, layer=layer)
        side, _ = backbone.native.height_width
        pixels, seen = pixels_of((side, side), 1), []
        module = list(model.visual.get_submodule(blocks))[block]
        hook = module.register_forward_hook(lambda *call: seen.append(call[2]))
        with torch.no_grad():
            output = model.visual(normalised(pixels, recipe))
        hook.remove()
        grid, vector = backbone.grids(pixels, recipe)
        rows, cols = side // backbone.cell[0], side // backbone.cell[1]
        assert vector is None
        assert relative(grid, as_grid(seen[0], backbone, rows, cols)) <= 1e-5
        if backbone.tower.has_class_token:
            with_token = msgspec.structs.replace(recipe, vector="class_token")
            again, token = backbone.grids(pixels, with_token)
            assert backbone.vector_dim(with_token) == backbone.dim
            assert torch.equal(again, grid)
            assert relative(token, seen[0][:, 0]) <= 1e-5
        embedding = backbone.grids(pixels, msgspec.structs.replace(recipe, vector="embedding"))[1]
        assert relative(embedding, output[0] if isinstance(output, tuple) else output) <= 1e-5

    @pytest.mark.parametrize(
        ("name", "layer", "vector", "code", "names"),
        [
            ("RN50", "penultimate", None, "E-RECIPE-LAYER", ("ModifiedResNet", "it has final")),
            ("RN50", "final", "class_token", "E-RECIPE-VECTOR", ("ModifiedResNet", "--pooled")),
            ("convnext_tiny", "final-no-norm", None, "E-RECIPE-LAYER", ("ConvNeXt", "has final")),
            ("ViT-B-32-SigLIP2-256", "final", "class_token", "E-RECIPE-VECTOR", ("(VisionTra",)),
        ],
    )
    def test_what_a_tower_lacks_is_refused_by_name(self, name, layer, vector, code, names):
        backbone = backbone_around(stock_model(name), name)
        recipe = recipe_of(backbone, layer, vector)
        with refuses(code, *names, kind=ExtractUsageError):
            backbone.check_recipe(recipe)

    def test_images_without_a_whole_cell_are_refused(self):
        backbone = backbone_around(stock_model("ViT-S-32"), "ViT-S-32")
        with refuses("E-RECIPE-SIZE", "31x64", "32x32", kind=ExtractUsageError):
            backbone.grids(pixels_of((31, 64), 1), recipe_of(backbone))


class TestFormulas:
    """Towers at sizes that are not square, against their papers' formulas in plain torch."""

    @torch.no_grad()
    def test_a_vit(self):
        visual: Any = stock_model("ViT-S-32").visual
        backbone = backbone_around(stock_model("ViT-S-32"), "ViT-S-32")
        pixels = pixels_of((5 * 32, 3 * 32))
        recipe = recipe_of(backbone)
        x = functional.conv2d(normalised(pixels, recipe), visual.conv1.weight, stride=32)
        x = torch.cat(
            [visual.class_embedding.expand(2, 1, -1), x.flatten(2).transpose(1, 2)], dim=1
        )
        x = norm(x + by_hand(visual.positional_embedding, 7, (5, 3)), visual.ln_pre)
        layers = {}
        for block in visual.transformer.resblocks:
            layers["penultimate"] = x
            q, k, v = functional.linear(
                norm(x, block.ln_1), block.attn.in_proj_weight, block.attn.in_proj_bias
            ).chunk(3, dim=-1)
            mixed = attend(q, k, v, heads=6)
            x = x + functional.linear(mixed, block.attn.out_proj.weight, block.attn.out_proj.bias)
            hidden = functional.gelu(linear(norm(x, block.ln_2), block.mlp.c_fc))
            x = x + linear(hidden, block.mlp.c_proj)
        layers |= {"final-no-norm": x, "final": norm(x, visual.ln_post)}
        for layer, tokens in layers.items():
            grid, token = backbone.grids(pixels, recipe_of(backbone, layer, "class_token"))
            assert relative(grid, tokens[:, 1:].reshape(2, 5, 3, 384)) <= 1e-5
            assert relative(token, tokens[:, 0]) <= 1e-5
        _, embedding = backbone.grids(pixels, recipe_of(backbone, vector="embedding"))
        assert relative(embedding, layers["final"][:, 0] @ visual.proj) <= 1e-5

    @torch.no_grad()
    def test_the_attention_pool_of_a_resnet(self):
        pool = stock_model("RN50").visual.attnpool
        backbone = backbone_around(stock_model("RN50"), "RN50")
        recipe = recipe_of(backbone, vector="embedding")
        grid, vector = backbone.grids(pixels_of((4 * 32 + 8, 6 * 32)), recipe)
        cells = grid.reshape(2, 24, 2048)
        x = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        x = x + by_hand(pool.positional_embedding, 7, (4, 6))
        mixed = attend(
            linear(x[:, :1], pool.q_proj), linear(x, pool.k_proj), linear(x, pool.v_proj), heads=32
        )
        assert relative(vector, linear(mixed, pool.c_proj)[:, 0]) <= 1e-5

    @torch.no_grad()
    def test_the_map_pooling_of_siglip(self):
        """Section 3 of Zhai et al., Scaling Vision Transformers: one learned query, then an MLP."""
        name = "ViT-B-32-SigLIP2-256"
        pool = stock_model(name).visual.trunk.attn_pool
        backbone = backbone_around(stock_model(name), name)
        recipe = recipe_of(backbone, vector="embedding")
        grid, vector = backbone.grids(pixels_of((4 * 32, 6 * 32)), recipe)
        k, v = linear(grid.reshape(2, 24, 768), pool.kv).chunk(2, dim=-1)
        mixed = attend(linear(pool.latent.expand(2, 1, 768), pool.q), k, v, heads=12)
        x = linear(mixed, pool.proj)
        hidden = functional.gelu(linear(norm(x, pool.norm), pool.mlp.fc1), approximate="tanh")
        assert relative(vector, (x + linear(hidden, pool.mlp.fc2))[:, 0]) <= 1e-5

    @pytest.mark.parametrize("name", ["EVA02-B-16", "PE-Core-T-16-384", "ViT-B-32-SigLIP2-256"])
    @torch.no_grad()
    def test_timm_fits_the_same_tables_in_its_forward_pass(self, name):
        """timm's `dynamic_img_size` is another way to other sizes than `set_input_size`."""
        visual: Any = stock_model(name).visual
        backbone = backbone_around(stock_model(name), name)
        kind = visual.trunk.pretrained_cfg["architecture"]
        dynamic: Any = timm.create_model(
            kind, dynamic_img_size=True, num_classes=visual.trunk.num_classes, depth=3
        ).eval()
        dynamic.load_state_dict(visual.trunk.state_dict())
        height, width = 3 * backbone.cell[0], 5 * backbone.cell[1]
        recipe = recipe_of(backbone, vector="embedding")
        pixels = pixels_of((height, width))
        features = dynamic.forward_features(normalised(pixels, recipe))
        grid, vector = backbone.grids(pixels, recipe)
        assert relative(grid, as_grid(features, backbone, 3, 5)) <= 1e-5
        assert relative(vector, visual.head(dynamic.forward_head(features))) <= 1e-5


def norm(x, module):
    return functional.layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def linear(x, module):
    return functional.linear(x, module.weight, module.bias)


def attend(q, k, v, heads):
    """Return softmax(q k' / sqrt(d)) v of each head, side by side."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)
