"""Checkpoints from everywhere: files of every kind, tags in the hub's cache, hostile ones."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import warnings
from typing import Any

import open_clip
import pytest
import torch
from refused import refuses
from safetensors.torch import save_file
from towers import TEXT

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.weights import load_backbone, weights_warning
from clipfeat.extract.backbones.weights_loading import OPENAI_KEYS, is_openai_checkpoint
from clipfeat.extract.planning.plan import BackboneSpec

# Towers with few blocks, and texts with small ones: what is read and refused is the same.
SMALL = {
    name: open_clip.get_model_config(name) or {}
    for name in ("RN50", "ViT-B-32", "ViT-B-32-256", "ViT-B-32-quickgelu")
}
for name, config in SMALL.items():
    config["vision_cfg"]["layers"] = [1, 1, 1, 1] if name == "RN50" else 2
    config["text_cfg"] = TEXT


@pytest.fixture(scope="module", autouse=True)
def _small_models():
    with pytest.MonkeyPatch.context() as patch:
        for name, config in SMALL.items():
            patch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        yield


def stock_model(name, seed=5) -> Any:
    torch.manual_seed(seed)
    return open_clip.create_model(name, pretrained_text=False).eval()


def stock_state(name, seed=5) -> Any:
    return stock_model(name, seed).state_dict()


def load(model, pretrained, seed=0):
    return load_backbone(BackboneSpec(model, str(pretrained), seed, "float32"), "cpu")


def module_prefixed(state):
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}}


@pytest.fixture(scope="module")
def vit():
    """A ViT-B-32 as LAION's are: float32 numbers."""
    return stock_state("ViT-B-32")


@pytest.fixture(scope="module")
def openais(vit):
    """The same as OpenAI's are: matrices in float16, the rest in float32."""
    return {key: tensor.half() if tensor.ndim > 1 else tensor for key, tensor in vit.items()}


@pytest.fixture(scope="module")
def rn50():
    return stock_state("RN50")


@pytest.fixture(scope="module")
def rn50_sha256():
    return load("RN50", "none", seed=5)[1]["weights_sha256"]


class TestFiles:
    @pytest.mark.parametrize("kind", ["state.pt", "training.pt", "state.safetensors", "visual.pt"])
    def test_a_file_gives_the_weights_it_holds(self, tmp_path, kind, rn50, rn50_sha256):
        state = rn50
        if kind == "state.safetensors":
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / kind)
        elif kind == "training.pt":
            torch.save(module_prefixed(state), tmp_path / kind)
        elif kind == "visual.pt":  # the text tower is not asked for
            visual = {key: t for key, t in state.items() if key.startswith("visual.")}
            torch.save(visual, tmp_path / kind)
        else:
            torch.save(state, tmp_path / kind)
        described = load("RN50", tmp_path / kind)[1]
        assert described["pretrained"] == "file"
        assert described["weights_sha256"] == rn50_sha256
        assert weights_warning(described) is None  # a ResNet's grid meets no GELU

    def test_a_state_dict_of_openais_archive_loads(self, tmp_path, rn50):
        """It keeps three buffers that are not weights, and its matrices are in float16."""
        state = {key: t.half() if t.ndim > 1 else t for key, t in rn50.items()}
        for key in ("input_resolution", "context_length", "vocab_size"):
            state[key] = torch.tensor(224)
        torch.save(state, tmp_path / "openai.pt")
        backbone, _ = load("RN50", tmp_path / "openai.pt")
        assert backbone.tower.visual.conv2.weight.dtype == torch.float32

    def test_a_table_of_another_size_is_refused(self, tmp_path, vit):
        torch.save(vit, tmp_path / "w.pt")
        with refuses("E-WEIGHTS-FIT", "ViT-B-32-256", "positional_embed"):
            load("ViT-B-32-256", tmp_path / "w.pt")

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [1, 2],
            {"visual.conv1.weight": torch.zeros(2)},
            {"conv1.weight": torch.zeros(2)},
            {"state_dict": None},
            {"visual.conv1.weight": "text"},
        ],
    )
    def test_weights_of_another_model(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ExtractUsageError) as refused:
            load("RN50", tmp_path / "w.pt")
        assert refused.value.code in ("E-WEIGHTS-FIT", "E-WEIGHTS-CONTENT")
        assert "RN50" in str(refused.value)

    def test_an_error_names_the_tensors_found_and_expected(self, tmp_path, rn50):
        """Weights of another library, and a file that lacks one tensor and has one too many."""
        torch.save({"vision_model.\x1b[2Jembeddings": torch.zeros(2)}, tmp_path / "other.pt")
        names = (r"vision_model.\x1b[2Jembeddings", "visual.conv1.weight")
        with refuses("E-WEIGHTS-FIT", *names):
            load("RN50", tmp_path / "other.pt")
        state = dict(rn50)
        state["visual.odd"] = state.pop("visual.conv1.weight")
        state["visual.conv2.weight"] = torch.zeros(3, 2)
        torch.save(state, tmp_path / "w.pt")
        names = ("lacks 1 tensor (visual.conv1.weight)", "visual.odd", "(3, 2) and not (32,")
        with refuses("E-WEIGHTS-FIT", *names):
            load("RN50", tmp_path / "w.pt")

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_a_file_that_is_not_a_checkpoint(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\x80 not a checkpoint")
        with refuses("E-WEIGHTS-CONTENT", "RN50"):
            load("RN50", tmp_path / name)

    def test_a_torchscript_archive_gives_the_weights_it_holds(self, tmp_path, rn50_sha256):
        """One such as OpenAI's: three buffers more, and matrices in float16."""
        model = stock_model("RN50")
        for name in OPENAI_KEYS:
            model.__dict__.pop(name, None)  # open_clip has two of them as plain numbers
            model.register_buffer(name, torch.tensor(224))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's files are not
            pixels, tokens = torch.zeros(1, 3, 224, 224), torch.zeros(1, 8, dtype=torch.long)
            torch.jit.save(torch.jit.trace(model, (pixels, tokens)), tmp_path / "RN50.pt")
        assert load("RN50", tmp_path / "RN50.pt")[1]["weights_sha256"] == rn50_sha256

    def test_a_pickle_is_never_executed(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (tmp_path / "sprung").write_text, ("!",)

        torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
        with refuses("E-WEIGHTS-CONTENT", "RN50"):
            load("RN50", tmp_path / "w.pt")
        assert not (tmp_path / "sprung").exists()


class TestActivation:
    """OpenAI's ViTs need QuickGELU, LAION's GELU, and no tensor says which."""

    def test_a_float32_file_runs_with_the_models_activation_and_a_warning(self, tmp_path, vit):
        torch.save(vit, tmp_path / "w.pt")
        gelu, quick = (
            load("ViT-B-32", tmp_path / "w.pt"),
            load("ViT-B-32-quickgelu", tmp_path / "w.pt"),
        )
        assert activation(gelu[0]) == "GELU"
        assert "run with GELU; if they need QuickGELU, stop and use --model ViT-B-32-quickgelu" in (
            weights_warning(gelu[1]) or ""
        )
        assert activation(quick[0]) == "QuickGELU"
        assert "run with QuickGELU; if they need GELU, stop and use --model ViT-B-32" in (
            weights_warning(quick[1]) or ""
        )

    @pytest.mark.parametrize("saved", ["float32", "safetensors", "keys"])
    def test_openais_file_is_refused_without_quickgelu(self, tmp_path, vit, openais, saved):
        path = tmp_path / ("w.safetensors" if saved == "safetensors" else "w.pt")
        state = {key: t.float() if saved == "float32" else t for key, t in openais.items()}
        if saved == "keys":  # from the archive, with numbers of any kind
            state = vit | dict.fromkeys(
                ("input_resolution", "context_length", "vocab_size"), vit["logit_scale"]
            )
        if saved == "safetensors":
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        else:
            torch.save(state, path)
        with refuses("E-WEIGHTS-ACTIVATION", "--model ViT-B-32-quickgelu"):
            load("ViT-B-32", path)
        backbone, _ = load("ViT-B-32-quickgelu", path)
        assert activation(backbone) == "QuickGELU"

    def test_bfloat16_weights_are_not_taken_for_openais(self, vit):
        """Its small numbers are below what float16 has."""
        assert not is_openai_checkpoint({key: tensor.bfloat16() for key, tensor in vit.items()})
        assert not is_openai_checkpoint(vit)

    @pytest.mark.slow
    def test_a_tag_in_the_hubs_cache_has_its_own_activation(self, tmp_path, openais):
        """Without a network: a cache as the hub's client leaves it, and no more."""
        weights = tmp_path / "weights.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in openais.items()}, weights)
        expected = {
            ("openai", "timm/vit_base_patch32_clip_224.openai"): "QuickGELU",
            ("laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"): "GELU",
        }
        for _, repository in expected:
            folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
            snapshot = folder / "snapshots" / ("0" * 40)
            snapshot.mkdir(parents=True)
            (folder / "refs").mkdir()
            (folder / "refs/main").write_text("0" * 40)
            (snapshot / "open_clip_model.safetensors").hardlink_to(weights)
        code = (
            f"for tag in {[tag for tag, _ in expected]!r}:\n"
            "    spec = BackboneSpec('ViT-B-32', tag, 0, 'float32')\n"
            "    backbone, described = load_backbone(spec, 'cpu')\n"
            "    block = backbone.tower.visual.transformer.resblocks[0]\n"
            "    print(described['pretrained'], type(block.mlp.gelu).__name__)"
        )
        found = offline(code, tmp_path).stdout.splitlines()
        assert found == [f"{tag} {activation}" for (tag, _), activation in expected.items()]

    @pytest.mark.slow
    def test_weights_that_cannot_be_downloaded(self, tmp_path):
        done = offline("load_backbone(BackboneSpec('RN50', None, 0, 'float32'), 'cpu')", tmp_path)
        line = done.stderr.strip().splitlines()[-1]
        assert "ExtractUsageError: --pretrained openai: the weights of RN50 cannot be" in line
        assert "pass a file: --pretrained PATH" in line

    @pytest.mark.slow
    def test_a_hub_that_does_not_answer_is_asked_once(self, tmp_path):
        """Its client would try 12 times."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            tries: list[int] = []
            threading.Thread(target=hang_up, args=(server, tries), daemon=True).start()
            done = offline(
                "load_backbone(BackboneSpec('RN50', None, 0, 'float32'), 'cpu')",
                tmp_path,
                HF_HUB_OFFLINE="0",
                HF_ENDPOINT=f"http://127.0.0.1:{server.getsockname()[1]}",
            )
        assert "does not answer: " in done.stderr.splitlines()[-1]
        assert len(tries) == 1


def hang_up(server, tries):
    """Close every connection at once."""
    with contextlib.suppress(OSError):  # the server is closed
        while True:
            server.accept()[0].close()
            tries.append(1)


def activation(backbone):
    return type(backbone.tower.visual.transformer.resblocks[0].mlp.gelu).__name__


def offline(code, home, **environment):
    """Run a line that may look for weights, with the hub's cache in `home`."""
    imports = (
        f"import open_clip; open_clip.factory._MODEL_CONFIGS.update({SMALL!r})\n"
        "from clipfeat.extract.planning.plan import BackboneSpec\n"
        "from clipfeat.extract.backbones.weights import load_backbone\n"
    )
    return subprocess.run(
        [sys.executable, "-c", imports + code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
    )
