"""Checks of a recipe's values, which may come from a stranger's store or a file by hand."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ...base.errors import ExtractUsageError
from ...base.files import local_path, read_bytes
from ...featstore import GridShape, StoreError
from ...featstore.geometry import (
    MAX_SIDE,
    MAX_STEPS,
    RGB,
    Area,
    Cover,
    Crop,
    Fit,
    ImageTransform,
    Pad,
    Shortest,
    ShortestDetectron2,
    ShortestMaskRCNN,
    Stretch,
    WholeCells,
    parse_step,
    real_area,
    step_json,
)
from ...manifests import VIEWS

Triple = tuple[float, float, float]
MOST = 1e6  # far beyond any mean of numbers in 0...1, far below what overflows


def check_word(what: str, value: Any, kind: Any) -> Any:
    """Return `value`, raising StoreError unless it is one of the words of `kind`."""
    if isinstance(value, str) and value in get_args(kind):
        return value
    near = difflib.get_close_matches(str(value)[:80], get_args(kind), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise StoreError(f"{what}: expected {' or '.join(get_args(kind))}; got {value!r:.80}{hint}")


def check_triple(what: str, value: Any) -> Triple:
    """Return `value` as three floats; those of std must be above 0."""
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 3 or not all(_is_plain(number, what) for number in numbers):
        above = " above 0" if what == "std" else ""
        raise StoreError(f"{what}: expected three numbers{above}; got {value!r:.80}")
    red, green, blue = map(float, numbers)
    return red, green, blue


def _is_plain(number: Any, what: str) -> bool:
    """Return whether a mean or a standard deviation is a number that one can compute with."""
    least = 1 / MOST if what == "std" else -MOST
    return type(number) in (int, float) and least < number < MOST


KEYS = ("name", "steps", "interpolation", "mean", "std", "layer", "vector", "decoder")
NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
MAX_BYTES = 1 << 16


def read_recipe_file(path: str, cell: tuple[int, int]) -> dict[str, Any]:
    """Return the keys of a recipe file, with what depends on the backbone filled in.

    Steps that count in cells get the backbone's `cell`, (height, width) in pixels; a conversion
    to RGB is added at the end where there is none. The values themselves are not checked yet.
    Raises ExtractUsageError for a file that cannot be read, or whose keys are not those of one.
    """

    def refuse(why: str) -> ExtractUsageError:
        return ExtractUsageError(f"--recipe {path}: {why}")

    try:
        content = read_bytes(local_path(path), MAX_BYTES, follow=True)
        given = tomllib.loads(content.decode())
    except OSError as error:
        raise refuse(f"cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not valid TOML: {error}") from None
    for key in given:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(KEYS)}"
            raise refuse(f"no such key {key!r:.80}; {hint}")
    name, steps = given.get("name"), given.get("steps")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise refuse("name: expected a letter, then up to 63 letters, digits, dots, _ or -")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise refuse('steps: expected a list of tables, such as { step = "shortest", side = 384 }')
    defaults = {
        "pad": {"turn": False, "odd": "last", "cell": list(cell)},
        "whole-cells": {"cell": list(cell)},
    }
    filled = [{**defaults.get(str(step.get("step")), {}), **step} for step in steps]
    if not any(step.get("step") == "rgb" for step in steps):
        filled.append({"step": "rgb"})
    return {**given, "steps": filled}


Resize = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Preprocess:
    """What a backbone's weights were trained on, in open_clip's terms.

    `shortest` resizes the shorter side and crops the centre, `squash` ignores the aspect ratio,
    `longest` resizes the longer side and pads with black.
    """

    size: int | tuple[int, int]  # pixels: of both sides, or (height, width)
    resize: Resize
    interpolation: Interpolation
    mean: Triple  # of channels scaled to 0...1
    std: Triple

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def native_steps(
    native: Preprocess, cell: tuple[int, int]
) -> tuple[tuple[ImageTransform, ...], Interpolation]:
    """Return the steps of a backbone's own preprocessing, as open_clip's transform takes them."""
    height, width = native.height_width
    if native.resize == "squash":
        return (Stretch(height, width), RGB()), native.interpolation
    if native.resize == "longest":
        pad = Pad(height, width, turn=False, odd="last", cell=cell)
        return (Fit(height, width), pad, RGB()), native.interpolation
    if height == width:
        return (Shortest(height), Crop(height, width), RGB()), native.interpolation
    # open_clip does not pass the interpolation on here, so that it is always bicubic.
    return (Cover(height, width), Crop(height, width), RGB()), "bicubic"


Layer = Literal["final", "final-no-norm", "penultimate"]
Vector = Literal["embedding", "class_token"]
Decoder = Literal["pillow", "torchvision"]

# The paper's captioning recipe: 448 x 448 bicubic, aspect ratio ignored (CLIP-ViL, section 3.2).
ALIASES = {"caption448": "square:448"}
NAMED = ("caption448", "vqa600", "pretrain384", "model", "views")
FORMS = ("square:N", "aspect:S,L", "a .toml file")


@dataclass(frozen=True)
class Recipe:
    """Image file to pixels to what is kept: decode, the steps, scale to 0...1, normalise.

    EXIF orientation is ignored, as stock CLIP ignores it. One of the steps is the conversion to
    RGB, and the last that changes the size leaves one of few sizes, so that all images of one
    grid shape have the same number of pixels.
    """

    name: str
    steps: tuple[ImageTransform, ...]
    interpolation: Interpolation
    mean: Triple
    std: Triple
    layer: Layer = "final"  # of a ViT; the grid of a ResNet is that of layer 4
    vector: Vector | None = None  # kept beside the grid: CLIP's embedding or the class token
    views: int | None = None  # so many pictures are one record, and their vectors its grid
    decoder: Decoder = (
        "pillow"  # of plain JPEG files; torchvision decodes and resizes on the device
    )

    def __post_init__(self) -> None:
        last = next((s for s in reversed(self.steps) if not isinstance(s, RGB)), None)
        if len(self.steps) > MAX_STEPS or sum(isinstance(s, RGB) for s in self.steps) != 1:
            raise StoreError(f"steps: expected 1 to {MAX_STEPS}, one of them rgb")
        if not isinstance(last, Stretch | WholeCells | Crop | Pad):
            raise StoreError(
                "steps: the last but for rgb must be stretch, crop, pad or whole-cells, "
                "or images of one grid would differ in size"
            )
        if self.views is not None and self.vector is None:
            raise StoreError("views: their vectors are the grid; vector must not be null")
        if self.views is not None and self.decoder != "pillow":
            raise StoreError(f"decoder: views are decoded by pillow alone; got {self.decoder}")
        if any(isinstance(step, Pad) for step in self.steps if step is not last):
            raise StoreError("steps: nothing but rgb may come behind pad")

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object of plain values; `from_json` reads it back."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        steps = [step_json(step) for step in self.steps]
        return {**plain, "steps": steps, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Any) -> "Recipe":
        """Return the recipe that `to_json` gave, raising StoreError for any other value.

        The name is whatever was given: it decides nothing.
        """
        keys = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.keys() != set(keys):
            raise StoreError(f"a recipe must have the keys {', '.join(keys)}; got {value!r:.200}")
        if not isinstance(value["name"], str) or not isinstance(value["steps"], list | tuple):
            raise StoreError("a recipe must have a name, and a list of steps")
        views = value["views"]
        if views is not None and (type(views) is not int or views != VIEWS):
            raise StoreError(f"views: expected {VIEWS} or null; got {views!r:.80}")
        return cls(
            value["name"],
            tuple(parse_step(step) for step in value["steps"][: MAX_STEPS + 1]),
            check_word("interpolation", value["interpolation"], Interpolation),
            check_triple("mean", value["mean"]),
            check_triple("std", value["std"]),
            check_word("layer", value["layer"], Layer),
            None if value["vector"] is None else check_word("vector", value["vector"], Vector),
            views,
            check_word("decoder", value["decoder"], Decoder),
        )

    def sizes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Return the (width, height) of an image after each step, as far as there is a pixel."""
        found = [(width, height)]
        for step in self.steps:
            if min(found[-1]) < 1:
                break
            found.append(step.size(found[-1]))
        return found[1:]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (height, width) of the pixels that enter the backbone.

        An image of unknown size, 0 by 0, counts as a square, and so does a line so thin that
        no pixel of it is left: both will be refused when they are read.
        """
        last = self.sizes(width, height)[-1] if width and height else (0, 0)
        if min(last) < 1:
            last = self.sizes(256, 256)[-1]
        return last[1], last[0]

    def grid_shape(self, size: tuple[int, int], cell: tuple[int, int]) -> GridShape:
        """Return the grid of an image of (width, height) with cells of (height, width) pixels.

        A remainder smaller than a cell is dropped, as strided convolutions drop it.
        """
        if self.views is not None:
            return GridShape(self.views, 1)
        height, width = self.size(*size)
        return GridShape(height // cell[0], width // cell[1])

    def real_cells(self, size: tuple[int, int]) -> Area | None:
        """Return the cells with pixels of an image of (width, height), None for all of them."""
        return real_area(self.steps, size) if self.views is None else None


def check_recipe_name(name: str, decoder: Decoder = "pillow") -> str:
    """Return the canonical name of a recipe, before any backbone is known.

    Raises ExtractUsageError for a name that is none, for a recipe file that is not sound, and for
    a decoder that the recipe cannot have.

    >>> check_recipe_name("caption448")
    'square:448'
    """
    clip = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return make_recipe(name, clip, (32, 32), decoder=decoder).name


def make_recipe(
    name: str,
    native: Preprocess,
    cell: tuple[int, int],
    *,
    layer: Layer = "final",
    vector: Vector | None = None,
    decoder: Decoder = "pillow",
) -> Recipe:
    """Return the recipe called `name` for a backbone trained on `native`.

    `cell` is the (height, width) in pixels of one of its grid cells. Mean and standard
    deviation are the backbone's own, unless a recipe file gives others. Raises
    ExtractUsageError for a name that is none, and for a file that is not sound.
    """
    canonical = ALIASES.get(name, name)
    numbers = re.fullmatch(r"(square|aspect):(\d{1,9})(?:,(\d{1,9}))?", canonical)
    steps: tuple[ImageTransform, ...]
    interpolation: Interpolation = "bicubic"
    if name.endswith(".toml"):
        return _from_file(name, native, cell, layer, vector, decoder)
    if canonical == "vqa600":
        steps = (ShortestDetectron2(600, 1000), Stretch(600, 1000), RGB())
        interpolation = "bilinear"
    elif canonical == "pretrain384":
        pad = Pad(384, 640, turn=True, odd="first", cell=cell)
        steps = (ShortestMaskRCNN(384, 640), RGB(), pad)
        interpolation = "bilinear"
    elif canonical in ("model", "views"):
        steps, interpolation = native_steps(native, cell)
    elif numbers and numbers[1] == "square" and not numbers[3]:
        side = _side(name, numbers[2])
        canonical, steps = f"square:{side}", (Stretch(side, side), RGB())
    elif numbers and numbers[1] == "aspect" and numbers[3]:
        shortest, longest = _side(name, numbers[2]), _side(name, numbers[3])
        if shortest > longest:
            raise ExtractUsageError(f"--recipe {name}: S is more than L; type aspect:600,1000")
        canonical = f"aspect:{shortest},{longest}"
        steps = (WholeCells(shortest, longest, cell), RGB())
    else:
        near = difflib.get_close_matches(name, [*NAMED, "square:224"], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ExtractUsageError(
            f"--recipe {name}: no such recipe; {hint}use {', '.join(NAMED)}, {' or '.join(FORMS)}"
        )
    views = None
    if canonical == "views":
        if layer != "final" or vector == "class_token":
            raise ExtractUsageError(
                "--recipe views keeps the embedding of each view; drop --layer and --class-token"
            )
        if decoder != "pillow":
            raise ExtractUsageError("--recipe views is decoded by Pillow alone; drop --decode")
        views, vector = VIEWS, "embedding"
    return Recipe(
        canonical, steps, interpolation, native.mean, native.std, layer, vector, views, decoder
    )


def _side(name: str, digits: str) -> int:
    if not 1 <= int(digits) <= MAX_SIDE:
        raise ExtractUsageError(f"--recipe {name}: a side must be 1 to {MAX_SIDE} pixels")
    return int(digits)


def _from_file(
    path: str,
    native: Preprocess,
    cell: tuple[int, int],
    layer: Layer,
    vector: Vector | None,
    decoder: Decoder,
) -> Recipe:
    """Return the recipe in a TOML file; what it leaves out is the caller's or the backbone's."""
    given = read_recipe_file(path, cell)
    if given["name"] in NAMED:
        raise ExtractUsageError(
            f"--recipe {path}: name: {given['name']} is clipfeat's own; choose another"
        )
    for key, options, is_given in (
        ("layer", "--layer", layer != "final"),
        ("vector", "--pooled and --class-token", vector is not None),
        ("decoder", "--decode", decoder != "pillow"),
    ):
        if key in given and is_given:
            raise ExtractUsageError(f"--recipe {path} has a {key} of its own; drop {options}")
    try:
        return Recipe.from_json(
            {
                "interpolation": "bicubic",
                "mean": native.mean,
                "std": native.std,
                "layer": layer,
                "vector": vector,
                "views": None,
                "decoder": decoder,
                **given,
            }
        )
    except StoreError as error:
        raise ExtractUsageError(f"--recipe {path}: {error}") from None
