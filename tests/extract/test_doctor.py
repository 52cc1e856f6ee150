"""`clipfeat doctor`: its report, what makes it fail, and what it does without torch or a network."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from command_lines import run_here
from pictures import photograph
from PIL import Image
from refused import refuses
from torch.nn import functional
from towers import backbone_around, stock_model

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract import facts, published, self_test
from clipfeat.extract.backbones.architecture import create_model
from clipfeat.extract.backbones.backbone import Backbone
from clipfeat.extract.doctor import diagnose
from clipfeat.extract.facts import Outcome, unreachable
from clipfeat.extract.planning.plan import BackboneSpec

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CLOSED = "http://127.0.0.1:9"  # refuses every connection
FACTS = ["versions", "system", "extras", "cores", "disk", "decoder", "java", "weights", "devices"]
CHECKS = ["float32", "float16", "bfloat16", "batches", "rate", "store"]

# What the base install has: importing the packages of the extras fails.
WITHOUT_EXTRAS = """
import sys

for name in ("torch", "open_clip", "PIL", "huggingface_hub"):
    sys.modules[name] = None
sys.argv = ["clipfeat", "doctor", "--json"]
import clipfeat.extract.facts

clipfeat.extract.facts.DISK_BYTES = 1 << 20
from clipfeat.cli.main import main

main()
"""


@pytest.fixture(scope="module")
def quick():
    """The self-test of a small model, on a small disk, where the hub cannot be reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "DISK_BYTES", 1 << 20)
        patch.setattr(facts, "DECODE_SECONDS", 0.05)
        patch.setattr(self_test, "RATE_SECONDS", 0.0)
        patch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
        patch.setattr(published, "IMAGE_URL", f"{CLOSED}/cats.jpg")
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
        yield patch


@pytest.fixture(scope="module")
def whole(quick, tmp_path_factory) -> Any:
    """The report of a machine without a fault, and the folder that was measured."""
    folder = tmp_path_factory.mktemp("doctor")
    done = run_here("doctor", "--model", "tiny", "--folder", folder, "--json")
    return done, folder


def by_name(done) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_sound_machine_passes_and_nothing_is_left(whole):
    done, folder = whole
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert [c["name"] for c in report["checks"] if c["device"] is None] == FACTS
    assert [c["name"] for c in report["checks"] if c["device"] == "cpu"] == CHECKS
    assert not list(folder.iterdir())


def test_the_json_has_one_form_and_the_numbers_of_the_text(whole):
    done, _ = whole
    report, checks = json.loads(done.stdout), by_name(done)
    assert set(report) == {"ok", "date", "checks"}
    for check in report["checks"]:
        assert set(check) == {"name", "device", "outcome", "text", "numbers"}
        assert check["outcome"] in list(Outcome)
    assert checks["versions"]["numbers"]["packages"]["torch"] in torch.__version__
    assert checks["cores"]["numbers"]["usable"] >= 1
    assert checks["disk"]["numbers"]["bytes_per_second"] > 0
    assert checks["rate"]["numbers"]["images_per_second"]["tiny"] > 0
    first, second = checks["store"]["numbers"]["digests"]
    assert first == second
    assert len(first) == 64
    errors = {name: checks[name]["numbers"]["relative_error"]["tiny"] for name in CHECKS[:3]}
    assert 0 <= errors["float32"] < 1e-5 < errors["float16"] < errors["bfloat16"] < 0.05


def test_a_hub_that_cannot_be_reached_is_a_fact(whole):
    check = by_name(whole[0])["weights"]
    assert (check["outcome"], check["numbers"]["reachable"]) == ("fact", False)
    assert CLOSED in check["text"]


def test_an_answer_of_any_kind_is_an_answer():
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}") == ""
    assert "refused" in unreachable(CLOSED)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(facts, "HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}") != ""


@pytest.fixture
def no_store(monkeypatch) -> None:
    """Leave out the slow check: it is in the whole report."""
    monkeypatch.setattr(self_test, "store_twice", lambda *_: facts.passed("store", "", good=True))


@pytest.mark.usefixtures("no_store")
def test_a_device_whose_features_depend_on_the_batch_fails(quick, monkeypatch, tmp_path):
    grids = Backbone.grids

    def mixed(self, pixels, recipe):
        cells, vectors = grids(self, pixels, recipe)
        return cells + 1e-6 * pixels.float().mean(), vectors

    monkeypatch.setattr(Backbone, "grids", mixed)
    done = run_here("doctor", "--model", "tiny", "--folder", tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[:3] == ["FAIL", "cpu", "batches"]
    for name in self_test.BATCHES:
        assert (name in line) == (name != "in another order")
    assert done.stdout.splitlines()[-1] == "1 of 5 checks FAILED"


@pytest.mark.usefixtures("no_store")
def test_features_that_are_wrong_fail(quick, monkeypatch, tmp_path):
    reference, grids = self_test.make_reference("tiny"), Backbone.grids

    def wrong(self, pixels, recipe):
        cells, vectors = grids(self, pixels, recipe)
        return 1.001 * cells, vectors

    monkeypatch.setattr(Backbone, "grids", wrong)
    checks = self_test.self_test("cpu", [reference], tmp_path)
    assert {c.name for c in checks if c.outcome is Outcome.FAIL} == {"float32"}


def test_another_digest_fails(quick, monkeypatch, tmp_path):
    digests = iter(["a" * 64, "b" * 64])

    def extract(*_: Any) -> Any:
        return SimpleNamespace(store=SimpleNamespace(digest=next(digests)))

    monkeypatch.setattr(self_test, "extract_images", extract)
    check = self_test.store_twice("tiny", "cpu", tmp_path)
    assert check.outcome is Outcome.FAIL
    assert "aaaa... and bbbb" in check.text


def test_an_error_of_a_device_is_a_line(quick, monkeypatch, tmp_path):
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image\nis available")

    reference = self_test.make_reference("tiny")
    monkeypatch.setattr(Backbone, "grids", broken)
    monkeypatch.setattr(self_test, "extract_images", broken)
    checks = list(self_test.self_test("cpu", [reference], tmp_path))
    assert [check.name for check in checks] == ["forward", "store"]
    for check in checks:
        assert check.outcome is Outcome.FAIL
        assert "no kernel image is available" in check.line()


def test_a_disk_that_cannot_be_written_fails(quick, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(facts, "write_rate", full)
    check = facts.disk(Path())
    assert check.outcome is Outcome.FAIL
    assert "No space left" in check.text
    monkeypatch.setattr(facts, "DISK_BYTES", 1 << 60)
    assert "free" in facts.disk(Path()).text


def test_the_libraries_that_decode_are_named(monkeypatch):
    monkeypatch.setattr(facts, "DECODE_SECONDS", 0.01)
    check = facts.decoder()
    assert check.text.startswith("Pillow with libjpeg")
    assert f"; for a GPU, simplejpeg {version('simplejpeg')}: " in check.text
    assert check.numbers["simplejpeg_images_per_second"] > 0
    monkeypatch.setattr("clipfeat.extract.pixels.jpeg.jpeg_decoder", lambda: None)
    check = facts.decoder()
    assert "gives other pixels here" in check.text
    assert check.numbers["simplejpeg_images_per_second"] is None


def test_the_base_install_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    checks = by_name(done)
    assert list(checks) == FACTS
    for name in ("decoder", "weights", "devices"):
        assert checks[name]["outcome"] == "fact"
        assert ".[extract]" in checks[name]["text"]


def test_a_source_folder_that_is_not_installed_has_no_extras(monkeypatch):
    def requires(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", requires)
    assert "not installed" in facts.extras().text


def test_a_package_that_cannot_be_loaded_fails():
    broken = facts.not_imported("devices", ImportError("libcudart.so.13: cannot open"))
    assert broken.outcome is Outcome.FAIL
    assert "libcudart" in broken.text


def test_help_and_mistakes_come_before_torch():
    code = (
        "import sys; from clipfeat.cli.main import clipfeat\n"
        "try: clipfeat(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'open_clip', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "$ clipfeat doctor" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"
    with refuses("E-WEIGHTS-UNKNOWN", "openai", "absent.pt", kind=ExtractUsageError):
        next(diagnose(Path(), ["RN50"], weights="absent.pt"))


def test_the_published_values_are_those_of_the_tower_before_and_after_its_norm(quick, monkeypatch):
    """Against stock open_clip's own blocks: channels 1 to 3 of patches 0 to 2, the class token."""
    model = stock_model("tiny")
    backbone = backbone_around(model, "tiny")
    assert published.check_values(backbone).outcome is Outcome.FAIL
    seen: list[Any] = []
    hook = model.visual.transformer.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        model.visual(torch.full((1, 3, 64, 64), 0.5))
        tokens = seen[0][0]
        hook.remove()
        monkeypatch.setattr(published, "PATCHES", tuple(map(tuple, tokens[1:4, 1:4].tolist())))
        last = model.visual.ln_post(tokens[:1])[0, 1:4]
    monkeypatch.setattr(published, "CLASS_TOKEN", tuple(last.tolist()))
    check = published.check_values(backbone)
    assert check.outcome is Outcome.PASS, check.text


def test_the_logits_of_texts_are_those_of_open_clip(quick, monkeypatch, tmp_path):
    spec, folder = BackboneSpec("tiny", "none", 0, "float32"), tmp_path / "images"
    folder.mkdir()
    photograph(5, 320, 240).save(tmp_path / "cats.jpg", quality=90)
    published.copy_image(tmp_path / "cats.jpg", folder)
    transform: Any = open_clip.image_transform(64, is_train=False)
    pixels = transform(Image.open(folder / "cats.jpg"))
    tokens = open_clip.get_tokenizer("tiny")(list(published.TEXTS))
    with torch.inference_mode():
        image = create_model("tiny").eval().encode_image(pixels[None])
        texts = create_model("tiny", whole=True).eval().encode_text(tokens)
    logits = (100 * functional.cosine_similarity(texts, image)).tolist()
    monkeypatch.setattr(published, "LOGITS", tuple(logits))
    check = published.check_logits(spec, folder)
    assert check.outcome is Outcome.PASS, check.text
    assert check.numbers["logits"] == pytest.approx(logits, abs=1e-3)


def test_without_a_network_the_weights_are_not_compared(quick):
    (check,) = published.check_published("openai", None)
    assert check.outcome is Outcome.FACT
    assert "network" in check.text


def test_a_file_that_is_not_weights_fails(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(published, "MODEL", "tiny")
    (tmp_path / "w.pt").write_text("<html>")
    (check,) = published.check_published(str(tmp_path / "w.pt"), None)
    assert check.outcome is Outcome.FAIL
