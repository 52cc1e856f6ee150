"""CLIPModel and SiglipModel of Hugging Face transformers: their configs and tensors as open_clip's.

The same models have other names there. What is said of them in `config.json` and
`preprocessor_config.json`, and what is meant where a key is missing, is transformers' own
(CLIPConfig, SiglipConfig, CLIPImageProcessor, SiglipImageProcessor).
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from ...base.jsonio import as_struct
from .architecture import TIMM_ARGUMENTS

KINDS = ("clip", "siglip")
VISION_ONLY = "_vision_model"  # how the model_type of an image tower alone ends
OPENAI_MEAN, OPENAI_STD = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, for `resample`
SIGLIP_TRUNK = "vit_base_patch16_siglip_224"  # timm's; the sizes are arguments

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]


class TowerConfig(msgspec.Struct, frozen=True):
    """The settings that both towers have."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: Activation
    layer_norm_eps: float

    @property
    def mlp_ratio(self) -> float:
        """How much wider a block is inside; open_clip and timm round the product down."""
        ratio = self.intermediate_size / self.hidden_size
        exact = int(self.hidden_size * ratio) == self.intermediate_size
        return ratio if exact else (self.intermediate_size + 0.5) / self.hidden_size


class VisionConfig(TowerConfig, frozen=True):
    """The image tower."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: Literal[3] = 3
    vision_use_head: Literal[True] = True


class TextConfig(TowerConfig, frozen=True):
    """The text tower."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


CLIP_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
SIGLIP_DEFAULTS = {
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_hidden_layers": 12,
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
}  # fmt: skip
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("clip", "vision"): CLIP_DEFAULTS
    | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    ("clip", "text"): CLIP_DEFAULTS
    | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    ("siglip", "vision"): SIGLIP_DEFAULTS | {"patch_size": 16},
    ("siglip", "text"): SIGLIP_DEFAULTS | {"vocab_size": 32000, "max_position_embeddings": 64},
}


def model_kind(config: Any) -> str | None:
    """Return "clip" or "siglip" where a config.json is of such a model, None for others."""
    model_type = config.get("model_type") if isinstance(config, dict) else None
    kind = model_type.removesuffix(VISION_ONLY) if isinstance(model_type, str) else None
    return kind if kind in KINDS else None


def openclip_config(config: dict[str, Any], processor: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip_config.json for a model of transformers.

    Raises ValueError for settings that neither open_clip nor timm has.
    """
    kind = model_kind(config)
    assert kind is not None
    is_vision_only = config["model_type"].endswith(VISION_ONLY)
    vision_settings = config if is_vision_only else _section(config, "vision")
    text_settings = {} if is_vision_only else _section(config, "text")
    vision = as_struct(DEFAULTS[kind, "vision"] | vision_settings, VisionConfig, "vision_config")
    text = as_struct(DEFAULTS[kind, "text"] | text_settings, TextConfig, "text_config")
    model = _clip_model(vision, text) if kind == "clip" else _siglip_model(vision, text)
    if kind == "clip":
        model["embed_dim"] = config.get("projection_dim", 512)
    return {"model_cfg": model, "preprocess_cfg": _preprocessing(kind, processor)}


def _section(config: dict[str, Any], tower: str) -> dict[str, Any]:
    """Return the settings of a tower; old files have a second object, which replaces the first."""
    section = config.get(f"{tower}_config_dict")
    if section is None:
        section = config.get(f"{tower}_config", {})
    if not isinstance(section, dict):
        raise ValueError(f"{tower}_config is not an object")
    return section


def _clip_model(vision: VisionConfig, text: TextConfig) -> dict[str, Any]:
    if (vision.hidden_act == "quick_gelu") != (text.hidden_act == "quick_gelu"):
        raise ValueError("its towers have different activations, which open_clip cannot have")
    if vision.hidden_size % vision.num_attention_heads:
        raise ValueError("hidden_size is not a multiple of num_attention_heads")
    # OpenAI's configs have 2, which transformers takes for the highest number of each text.
    ends = {"pool_type": "eos", "eos_id": text.eos_token_id}
    is_highest = text.eos_token_id in (2, text.vocab_size - 1)
    return {
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size, "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers, "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_tower(vision, 1e-5),
        },
        "text_cfg": _text(text, 1e-5) | ({} if is_highest else ends),
    }  # fmt: skip


def _siglip_model(vision: VisionConfig, text: TextConfig) -> dict[str, Any]:
    if vision.layer_norm_eps != 1e-6:
        raise ValueError("layer_norm_eps is not 1e-6, as in all SigLIP models of timm")
    activation = {"gelu_pytorch_tanh": "gelu_tanh"}.get(vision.hidden_act, vision.hidden_act)
    return {
        "embed_dim": vision.hidden_size,
        "custom_text": True,
        "init_logit_bias": -10,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size, "timm_model_name": SIGLIP_TRUNK,
            "timm_pool": "map", "timm_proj": "none",
            TIMM_ARGUMENTS: {
                "img_size": vision.image_size, "patch_size": vision.patch_size,
                "embed_dim": vision.hidden_size, "depth": vision.num_hidden_layers,
                "num_heads": vision.num_attention_heads, "mlp_ratio": vision.mlp_ratio,
                "act_layer": activation,
            },
        },
        "text_cfg": _text(text, 1e-5)
        | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    }  # fmt: skip


def _text(text: TextConfig, default_eps: float) -> dict[str, Any]:
    return {
        "context_length": text.max_position_embeddings, "vocab_size": text.vocab_size,
        "width": text.hidden_size, "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers, **_tower(text, default_eps),
    }  # fmt: skip


def _tower(tower: TowerConfig, default_eps: float) -> dict[str, Any]:
    """Return the settings that are not open_clip's default."""
    settings: dict[str, Any] = {}
    if tower.mlp_ratio != 4:
        settings["mlp_ratio"] = tower.mlp_ratio
    if tower.layer_norm_eps != default_eps:
        settings["norm_kwargs"] = {"eps": tower.layer_norm_eps}
    if tower.hidden_act == "gelu_pytorch_tanh":
        settings["act_kwargs"] = {"approximate": "tanh"}
    return settings


def _preprocessing(kind: str, processor: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's preprocess_cfg for an image processor."""
    is_clip = kind == "clip"
    default: Any = {"shortest_edge": 224} if is_clip else {"height": 224, "width": 224}
    size = processor.get("size", default)
    if not processor.get("do_resize", True):
        raise ValueError("do_resize is false; clipfeat resizes images")
    factor = processor.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or abs(factor * 255 - 1) > 1e-6:
        raise ValueError("rescale_factor is not 1/255")
    resample = processor.get("resample", 3)
    if resample not in INTERPOLATIONS:
        raise ValueError(f"resample is {resample!r:.40}; clipfeat has 2 (bilinear) and 3 (bicubic)")
    squashes = isinstance(size, dict) and "height" in size
    mean, std = (OPENAI_MEAN, OPENAI_STD) if is_clip else ([0.5] * 3, [0.5] * 3)
    normalises = processor.get("do_normalize", True)
    return {
        "mean": processor.get("image_mean", mean) if normalises else [0.0] * 3,
        "std": processor.get("image_std", std) if normalises else [1.0] * 3,
        "interpolation": INTERPOLATIONS[resample],
        "resize_mode": "squash" if squashes else "shortest",
    }


LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
POOL = re.compile(r"vision_model\.head\.attention\.in_proj_(weight|bias)")
OPENCLIP_PARTS = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
TIMM_PARTS = {
    "layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
CLIP_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # sic
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
SIGLIP_NAMES = {
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp.fc1": "visual.trunk.attn_pool.mlp.fc1",
    "vision_model.head.mlp.fc2": "visual.trunk.attn_pool.mlp.fc2",
    "text_model.embeddings.token_embedding": "text.token_embedding",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
}


def is_transformers(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors have the names of transformers' CLIPModel or SiglipModel."""
    return "vision_model.embeddings.patch_embedding.weight" in tensors


def openclip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model of transformers by open_clip's names, in its layout.

    Those that open_clip does not have keep their name. Raises KeyError for an attention that lacks
    a part.
    """
    is_siglip = "vision_model.head.probe" in tensors
    names = SIGLIP_NAMES if is_siglip else CLIP_NAMES
    blocks = {
        "vision": "visual.trunk.blocks" if is_siglip else "visual.transformer.resblocks",
        "text": f"{'text.' if is_siglip else ''}transformer.resblocks",
    }
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, _, kind = key.rpartition(".")
        if match := LAYER.fullmatch(key):
            tower, number, part, _ = match.groups()
            is_timms = is_siglip and tower == "vision"
            parts = TIMM_PARTS if is_timms else OPENCLIP_PARTS
            block = f"{blocks[tower]}.{number}"
            if part == "self_attn.q_proj":  # the three are one tensor there
                name = f"attn.qkv.{kind}" if is_timms else f"attn.in_proj_{kind}"
                each = (key.replace("q_proj", f"{letter}_proj") for letter in "qkv")
                result[f"{block}.{name}"] = torch.cat([tensors[other] for other in each])
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                result[f"{block}.{parts.get(part, part)}.{kind}"] = tensor
        elif match := POOL.fullmatch(key):
            width = len(tensor) // 3
            result[f"visual.trunk.attn_pool.q.{match[1]}"] = tensor[:width]
            result[f"visual.trunk.attn_pool.kv.{match[1]}"] = tensor[width:]
        elif key in names:
            result[names[key]] = tensor.T if key.endswith("_projection.weight") else tensor
        elif module in names:
            result[f"{names[module]}.{kind}"] = tensor
        elif not key.endswith("position_ids"):
            result[key] = tensor
    if is_siglip and "visual.trunk.pos_embed" in result:
        result["visual.trunk.pos_embed"] = result["visual.trunk.pos_embed"][None]
    return result
