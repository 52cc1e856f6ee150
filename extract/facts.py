"""The machine as `clipfeat doctor` reports it: facts that take a second, without torch.

Packages that are not installed are facts, too. A fact is neither right nor wrong; a check that
failed says what to do.
"""

import enum
import importlib.metadata
import io
import os
import platform
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base import clipfeat_version, package_version
from ..base.errors import how_to_install, reason_of
from ..base.machine import affinity, cgroup_cores, describe_processor, usable_cores, write_rate
from ..base.text import counted

PACKAGES = ("torch", "open_clip_torch", "timm", "zarr", "numcodecs", "pyarrow", "pillow")
EXTRAS = ("extract", "train", "caption", "cluster", "demo", "xarray")
REQUIREMENT = re.compile(r"([\w.-]+).*;\s*extra\s*==\s*[\"'](\w+)[\"']")
DISK_BYTES, DISK_SECONDS = 256 << 20, 4.0
PICTURE = (480, 640)  # height and width in pixels, of most COCO images
DECODE_SECONDS = 0.5
HUB_SECONDS = 5.0
JAVA_SECONDS = 10.0


class Outcome(enum.StrEnum):
    """What a line of the report says."""

    PASS = "pass"
    FAIL = "fail"
    FACT = "fact"


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, on which device, and what came out.

    `numbers` is for scripts: what the text says, with all digits.
    """

    name: str
    outcome: Outcome
    text: str
    device: str = ""  # "" for the whole machine
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the line for a person; a fact has a dash in place of PASS or FAIL."""
        mark = "-" if self.outcome is Outcome.FACT else self.outcome.upper()
        return f"{mark:<4}  {self.device:<7} {self.name:<9} {self.text}"

    def to_json(self) -> dict[str, Any]:
        """Return the line for scripts."""
        return {
            "name": self.name,
            "device": self.device or None,
            "outcome": str(self.outcome),
            "text": self.text,
            "numbers": dict(self.numbers),
        }


def passed(name: str, text: str, *, good: bool, device: str = "", **numbers: Any) -> Check:
    """Return a check that passed if `good`, and failed otherwise."""
    return Check(name, Outcome.PASS if good else Outcome.FAIL, text, device, numbers)


def fact(name: str, text: str, *, device: str = "", **numbers: Any) -> Check:
    """Return a line that is neither right nor wrong."""
    return Check(name, Outcome.FACT, text, device, numbers)


def not_imported(name: str, error: ImportError) -> Check:
    """Return the line for a package of the extra "extract": a failure, unless it is not installed."""
    if isinstance(error, ModuleNotFoundError):
        return fact(name, f"not known: {error}; {how_to_install('extract')}")
    return passed(name, f"a package is installed and cannot be imported: {error}", good=False)


def machine_facts(folder: Path) -> Iterator[Check]:
    """Yield what is known without torch; `folder` is where stores are going to be written."""
    yield versions()
    yield system()
    yield extras()
    yield cores()
    yield disk(folder)
    yield decoder()
    yield java()
    yield hub()


def versions() -> Check:
    """Return the versions of what decides features and bytes."""
    found = {name: package_version(name) for name in PACKAGES}
    known = [f"{name} {version}" for name, version in found.items() if version]
    text = ", ".join([f"clipfeat {clipfeat_version()}", *known])
    return fact("versions", text, clipfeat=clipfeat_version(), packages=found)


def system() -> Check:
    """Return the operating system and the Python."""
    python, name = platform.python_version(), platform.platform()
    return fact("system", f"Python {python}, {name}", python=python, system=name)


def extras() -> Check:
    """Return which of clipfeat's extras are installed, and what the others lack."""
    missing: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    try:
        requirements = importlib.metadata.requires("clipfeat") or ()
    except importlib.metadata.PackageNotFoundError:
        return fact("extras", "not known: clipfeat runs from its source folder, not installed")
    for requirement in requirements:
        found = REQUIREMENT.match(requirement)
        if found and found[2] in missing and package_version(found[1]) is None:
            missing[found[2]].append(found[1])
    complete = [extra for extra, packages in missing.items() if not packages]
    lacking = [f"{extra} lacks {', '.join(names)}" for extra, names in missing.items() if names]
    return fact("extras", "; ".join([", ".join(complete) or "none", *lacking]), missing=missing)


def cores() -> Check:
    """Return the processor, how many cores each limit leaves, and how busy they are."""
    numbers = {
        "machine": os.cpu_count() or 1,
        "affinity": len(affinity()) or None,
        "cgroup": cgroup_cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    text = ", ".join(f"{name} {number}" for name, number in numbers.items() if number is not None)
    return fact("cores", f"{describe_processor()} ({text})", usable=usable_cores(), **numbers)


def disk(folder: Path) -> Check:
    """Return how fast a temporary file in `folder` is written; one that cannot be is a failure."""
    try:
        free = shutil.disk_usage(folder).free
        if free < 2 * DISK_BYTES:
            return passed(
                "disk", f"{folder}: only {free / 1e6:.0f} MB free", good=False, free_bytes=free
            )
        rate = write_rate(folder, DISK_BYTES, DISK_SECONDS)
    except OSError as error:
        problem = f"{folder}: cannot be written: {reason_of(error)}; pass another with --folder"
        return passed("disk", problem, good=False)
    text = f"{rate / 1e6:.0f} MB/s written in {folder}, {free / 1e9:.0f} GB free"
    return fact("disk", text, bytes_per_second=rate, free_bytes=free)


def decoder() -> Check:
    """Return which libraries decode JPEG files, and how many a second each on one core."""
    try:
        from PIL import Image, features

        from .pixels.jpeg import decode_jpeg, jpeg_decoder
    except ImportError as error:
        return not_imported("decoder", error)
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    pixels = pictures(1, PICTURE)[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    height, width = PICTURE
    rates = {"pillow": rate(lambda: Image.open(file).load())}
    text = f"Pillow with {library}: {rates['pillow']:.0f} images/s a core ({width}x{height} JPEG)"
    version = package_version("simplejpeg")
    if jpeg_decoder() is not None:
        rates["simplejpeg"] = rate(lambda: decode_jpeg(file.getvalue(), pixels))
        text += f"; for a GPU, simplejpeg {version}: {rates['simplejpeg']:.0f}"
    elif version is None:
        text += "; for a GPU too, since simplejpeg is not installed"
    else:
        text += f"; for a GPU too, since simplejpeg {version} gives other pixels here"
    return fact(
        "decoder",
        text,
        library=library,
        simplejpeg=version,
        images_per_second=rates["pillow"],
        simplejpeg_images_per_second=rates.get("simplejpeg"),
    )


def rate(decode: Callable[[], object]) -> float:
    """Return how many times a second `decode` does its work."""
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < DECODE_SECONDS:
        decode()
        done += 1
    return done / elapsed


def pictures(count: int, size: tuple[int, int]) -> np.ndarray:
    """Return (count, height, width, 3) uint8 pictures with edges, gradients and noise."""
    from PIL import Image

    rng, (height, width) = np.random.default_rng(0), size
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        found.append((smooth + rng.integers(-9, 9, smooth.shape)).clip(0, 255))
    return np.stack(found).astype(np.uint8)


def java() -> Check:
    """Return whether there is a Java, which some scores of captions need."""
    path = shutil.which("java")
    if path is None:
        return fact("java", "not found: captions are scored without BLEU, METEOR, ROUGE-L, CIDEr")
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=JAVA_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return fact("java", f"{path} does not work: {error}")
    return fact("java", f"{(done.stderr or done.stdout).partition(chr(10))[0]} ({path})", path=path)


def hub() -> Check:
    """Return whether weights can be downloaded, and what the cache of the hub's client holds."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        return not_imported("weights", error)
    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*")))
    if constants.HF_HUB_OFFLINE:
        problem = "HF_HUB_OFFLINE is set"
    else:
        problem = unreachable(constants.ENDPOINT)
    state = f"cannot be reached ({problem})" if problem else "answers"
    text = f"{constants.ENDPOINT} {state}; {counted(models, 'model')} in the cache {cache}"
    return fact("weights", text, reachable=not problem, cache=str(cache), cached_models=models)


def unreachable(url: str) -> str:
    """Return why a server does not answer within HUB_SECONDS, "" if it does."""
    reasons = [f"no answer in {HUB_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            reasons.append("")
        except urllib.error.HTTPError:  # an answer, too
            reasons.append("")
        except (OSError, ValueError) as error:
            reasons.append(str(getattr(error, "reason", error)))

    # In a thread, since the time-out does not hold for the lookup of the name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return reasons[-1]
