"""Recipes: which pixels of an image enter the backbone, and which layer and vector are kept.

A recipe is a list of steps with numbers. It is part of the identity of a store, as JSON. A user
names one of clipfeat's own, or a TOML file (docs/recipes.md).
"""

import difflib
import math
import re
import tomllib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ...base.errors import ExtractUsageError, reason_of
from ...base.files import local_path, read_bytes
from ...base.jsonio import as_struct
from ...featstore import GridShape, StoreError
from ...featstore.geometry import (
    BICUBIC,
    BILINEAR,
    MAX_SIDE,
    MAX_STEPS,
    RGB,
    Area,
    Cover,
    Crop,
    Fit,
    ImageTransform,
    Interpolation,
    Pad,
    Shortest,
    ShortestDetectron2,
    ShortestMaskRCNN,
    Stretch,
    Upright,
    WholeCells,
    real_area,
)
from ...manifests import VIEWS

LIMIT = 1e6  # far beyond any mean of channels in 0...1, far below what overflows
Mean = Annotated[float, Meta(gt=-LIMIT, lt=LIMIT)]
Deviation = Annotated[float, Meta(gt=1 / LIMIT, lt=LIMIT)]
Means = tuple[Mean, Mean, Mean]  # of red, green and blue
Deviations = tuple[Deviation, Deviation, Deviation]
Resize = Literal["shortest", "squash", "longest"]
Layer = Literal["final", "final-no-norm", "penultimate"]
Vector = Literal["embedding", "class_token"]
Views = Annotated[int, Meta(ge=VIEWS, le=VIEWS)]

# The paper's captioning recipe: 448 x 448 bicubic, aspect ratio ignored (CLIP-ViL, section 3.2).
ALIASES = {"caption448": "square:448"}
NAMED = ("caption448", "vqa600", "pretrain384", "model", "views")
FORMS = ("square:N", "aspect:S,L", "a .toml file")
SQUARE = re.compile(r"square:(\d{1,9})")
ASPECT = re.compile(r"aspect:(\d{1,9}),(\d{1,9})")
FILE_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)  # of a recipe in a file
MAX_FILE_BYTES = 1 << 16


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an image file becomes features: decode, the steps, scale to 0...1, normalise, keep.

    EXIF orientation is ignored, as stock CLIP ignores it, unless the first step is `upright`: then
    all sizes are those of turned images. One of the steps is the conversion to RGB, and the last
    that changes the size leaves one of few sizes, so that all images of one grid shape have the
    same number of pixels.

    Attributes:
        name: A text for people; it decides nothing.
        steps: What is done to the image, in order.
        mean: Of red, green and blue, scaled to 0...1; it is subtracted.
        std: The standard deviation; pixels are divided by it.
        layer: Of a ViT; the grid of a ResNet is the output of layer 4.
        vector: What is kept beside the grid: CLIP's `embedding`, the `class_token`, or nothing.
        views: 36 where so many pictures are one record, and their vectors are its grid.

    Raises:
        StoreError: The steps break the rules above (`E-RECIPE-STEPS`), or the recipe has views and
            no vector (`E-RECIPE-VIEWS`).
    """

    name: str
    steps: Annotated[tuple[ImageTransform, ...], Meta(min_length=1, max_length=MAX_STEPS)]
    mean: Means
    std: Deviations
    layer: Layer = "final"
    vector: Vector | None = None
    views: Views | None = None

    def __post_init__(self) -> None:
        others = [step for step in self.steps if not isinstance(step, RGB | Upright)]
        last = others[-1] if others else None
        if sum(isinstance(step, RGB) for step in self.steps) != 1:
            raise StoreError("steps: exactly one of them must be rgb", code="E-RECIPE-STEPS")
        if not isinstance(last, Stretch | WholeCells | Crop | Pad):
            raise StoreError(
                "steps: the last one, apart from rgb, must be stretch, crop, pad or whole-cells, "
                "or images of one grid would differ in size",
                code="E-RECIPE-STEPS",
            )
        if any(isinstance(step, Upright) for step in self.steps[1:]):
            raise StoreError("steps: upright must be the first one", code="E-RECIPE-STEPS")
        if any(isinstance(step, Pad) for step in self.steps if step is not last):
            raise StoreError("steps: only rgb may come after pad", code="E-RECIPE-STEPS")
        if self.views is not None and self.vector is None:
            raise StoreError(
                "views: their vectors are the grid; vector must not be null", code="E-RECIPE-VIEWS"
            )

    @property
    def is_upright(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        return isinstance(self.steps[0], Upright)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object of plain values; `from_json` reads it back."""
        return msgspec.json.decode(msgspec.json.encode(self))

    @classmethod
    def from_json(cls, value: Any) -> "Recipe":
        """Return the recipe that `to_json` returned, raising StoreError for any other value."""
        try:
            recipe = as_struct(value, cls, "recipe")
        except ValueError as error:
            raise StoreError(str(error), code="E-RECIPE-VALUE") from None
        if missing := [key for key in cls.__struct_fields__ if key not in value]:
            raise StoreError(f"recipe: the key {missing[0]} is missing", code="E-RECIPE-VALUE")
        return recipe

    def sizes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Return the (width, height) of an image after each step, until a side has no pixel."""
        sizes = [(width, height)]
        for step in self.steps:
            if min(sizes[-1]) < 1:
                break
            sizes.append(step.size(sizes[-1]))
        return sizes[1:]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (height, width) of the pixels that enter the backbone.

        An image of unknown size, 0 by 0, counts as a square, and so does one so thin that no pixel
        of it is left: both have no record once they are read.
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


class Preprocess(msgspec.Struct, frozen=True):
    """The preprocessing that a backbone's weights were trained with, in open_clip's terms.

    `shortest` resizes the shorter side and crops the centre, `squash` ignores the aspect ratio,
    `longest` resizes the longer side and pads with black. Models of timm resize to a larger size
    before they crop: `crop` is the share of its sides that is left.
    """

    size: int | tuple[int, int]  # pixels: of both sides, or (height, width)
    resize: Resize
    interpolation: Interpolation
    mean: Means  # of channels scaled to 0...1
    std: Deviations
    crop: Annotated[float, Meta(gt=0, le=1)] = 1.0

    @property
    def height_width(self) -> tuple[int, int]:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def steps(self, cell: tuple[int, int]) -> tuple[ImageTransform, ...]:
        """Return the steps that open_clip's transform takes, or timm's with its `crop`."""
        height, width = self.height_width
        whole = [math.floor(side / self.crop) for side in (height, width)]
        how = BICUBIC if self.interpolation == "bicubic" else BILINEAR
        if self.resize == "squash":
            crop = () if self.crop == 1 else (Crop(height, width),)
            return Stretch(*whole, **how), *crop, RGB()
        if self.resize == "longest":
            pad = Pad(height, width, turn=False, odd="last", cell=cell)
            return Fit(height, width, **how), pad, RGB()
        if height == width:
            return Shortest(whole[0], **how), Crop(height, width), RGB()
        # open_clip does not pass the interpolation on here, so it is always bicubic.
        return Cover(*whole, **BICUBIC), Crop(height, width), RGB()


def check_recipe(name: str, *, upright: bool = False) -> Recipe:
    """Return a recipe with the cells and numbers of some backbone, before the real one is known.

    Raises ExtractUsageError for an unknown name, and for an invalid recipe file.

    >>> check_recipe("caption448").name
    'square:448'
    """
    clip = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return make_recipe(name, clip, (32, 32), upright=upright)


def make_recipe(
    name: str,
    native: Preprocess,
    cell: tuple[int, int],
    *,
    layer: Layer = "final",
    vector: Vector | None = None,
    upright: bool = False,
) -> Recipe:
    """Return the recipe called `name` for a backbone trained on `native`.

    `cell` is the (height, width) in pixels of one of its grid cells. Mean and standard deviation
    are the backbone's own, unless a recipe file gives others. With `upright`, the step `upright`
    comes first. Raises ExtractUsageError for an unknown name, for an invalid file, and for options
    that the recipe cannot have.
    """
    if name.endswith(".toml"):
        return _from_file(name, native, cell, layer, vector, upright=upright)
    canonical, views = ALIASES.get(name, name), None
    steps: tuple[ImageTransform, ...]
    if canonical == "vqa600":
        shortest = ShortestDetectron2(600, 1000, **BILINEAR)
        steps = (shortest, Stretch(600, 1000, **BILINEAR), RGB())
    elif canonical == "pretrain384":
        pad = Pad(384, 640, turn=True, odd="first", cell=cell)
        steps = (ShortestMaskRCNN(384, 640, **BILINEAR), RGB(), pad)
    elif canonical in ("model", "views"):
        steps = native.steps(cell)
    elif match := SQUARE.fullmatch(canonical):
        side = _side(name, match[1])
        canonical, steps = f"square:{side}", (Stretch(side, side, **BICUBIC), RGB())
    elif match := ASPECT.fullmatch(canonical):
        shorter, longer = _side(name, match[1]), _side(name, match[2])
        if shorter > longer:
            raise _invalid(name, "S is more than L; type aspect:600,1000", "E-RECIPE-SIDE")
        canonical = f"aspect:{shorter},{longer}"
        steps = (WholeCells(shorter, longer, cell, **BICUBIC), RGB())
    else:
        near = difflib.get_close_matches(name, [*NAMED, "square:224"], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        known = f"use {', '.join(NAMED)}, {' or '.join(FORMS)}"
        raise _invalid(name, f"no such recipe; {hint}{known}", "E-RECIPE-NAME")
    if canonical == "views":
        if layer != "final" or vector == "class_token":
            rule = "keeps the embedding of each view; drop --layer and --class-token"
            raise _invalid(name, rule, "E-RECIPE-VIEWS")
        if upright:
            raise _invalid(name, "views have no orientation; drop --upright", "E-RECIPE-VIEWS")
        views, vector = VIEWS, "embedding"
    if upright:
        steps = (Upright(), *steps)
    return Recipe(canonical, steps, native.mean, native.std, layer, vector, views)


def _invalid(name: str, problem: str, code: str) -> ExtractUsageError:
    return ExtractUsageError(f"--recipe {name}: {problem}", code=code)


def _side(name: str, digits: str) -> int:
    if not 1 <= int(digits) <= MAX_SIDE:
        raise _invalid(name, f"a side must be 1 to {MAX_SIDE} pixels", "E-RECIPE-SIDE")
    return int(digits)


def _from_file(
    path: str,
    native: Preprocess,
    cell: tuple[int, int],
    layer: Layer,
    vector: Vector | None,
    *,
    upright: bool,
) -> Recipe:
    """Return the recipe in a TOML file; what it leaves out is the caller's or the backbone's."""
    try:
        text = read_bytes(local_path(path), MAX_FILE_BYTES, follow=True).decode()
        given = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(
            path, f"not a readable TOML file ({reason_of(error)})", "E-RECIPE-FILE"
        ) from None
    name = given.get("name", "")
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        rule = "name: expected a letter, then up to 63 letters, digits, dots, _ or -"
        raise _invalid(path, rule, "E-RECIPE-NAME")
    if name in NAMED:
        raise _invalid(path, f"name: {name} is clipfeat's own; choose another", "E-RECIPE-NAME")
    if "views" in given:
        raise _invalid(path, "no such key 'views'; use --recipe views", "E-RECIPE-VALUE")
    for key, options, is_set in (
        ("layer", "--layer", layer != "final"),
        ("vector", "--pooled and --class-token", vector is not None),
    ):
        if key in given and is_set:
            raise _invalid(path, f"sets {key} itself; drop {options}", "E-RECIPE-CONFLICT")
    content = {
        "mean": native.mean,
        "std": native.std,
        "layer": layer,
        "vector": vector,
        "views": None,
        **given,
    }
    if "steps" in given:
        content["steps"] = _with_defaults(given["steps"], cell, upright=upright)
    try:
        return Recipe.from_json(content)
    except StoreError as error:
        raise _invalid(path, str(error), error.code) from None


def _with_defaults(steps: Any, cell: tuple[int, int], *, upright: bool) -> Any:
    """Return the steps of a file with what they may leave out; other values are returned as is.

    Steps that resize do it bicubically. Steps that count in cells get the backbone's `cell`,
    (height, width) in pixels. A conversion to RGB is added at the end where there is none, and with
    `upright` this step at the beginning.
    """
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return steps
    defaults: dict[str, dict[str, Any]] = {
        "crop": {},
        "pad": {"turn": False, "odd": "last", "cell": cell},
        "rgb": {},
        "upright": {},
        "whole-cells": {**BICUBIC, "cell": cell},
    }
    complete = [{**defaults.get(str(step.get("step")), BICUBIC), **step} for step in steps]
    if not any(step.get("step") == "rgb" for step in steps):
        complete.append({"step": "rgb"})
    if upright and not any(step.get("step") == "upright" for step in steps):
        complete.insert(0, {"step": "upright"})
    return complete
