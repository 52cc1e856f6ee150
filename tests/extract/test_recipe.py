"""Recipes by name and from a file, and their geometry by hand."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from refused import refuses

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.planning.recipe import Preprocess, Recipe, check_recipe, make_recipe
from clipfeat.featstore import GridShape, StoreError
from clipfeat.featstore.geometry import (
    BICUBIC,
    BILINEAR,
    RGB,
    Crop,
    Pad,
    Shortest,
    ShortestMaskRCNN,
    Stretch,
)

CLIP = Preprocess(224, "shortest", "bicubic", OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
CELL = (32, 32)
STRETCH = {"step": "stretch", "height": 64, "width": 64, **BICUBIC}
SIZES = st.tuples(st.integers(2, 3000), st.integers(2, 3000))
OWN = """
name = "own"
std = [0.5, 0.5, 0.5]
layer = "penultimate"
vector = "class_token"
steps = [
    { step = "rgb" },
    { step = "shortest-maskrcnn", side = 320, longest = 512, interpolation = "bilinear" },
    { step = "pad", height = 320, width = 512, turn = true },
]
"""


def recipe_of(name, cell=CELL, **fields):
    return make_recipe(name, CLIP, cell, **fields)


class TestNames:
    def test_an_alias_is_stored_under_its_canonical_name(self):
        assert recipe_of("caption448") == recipe_of("square:448")
        assert recipe_of("square:448") == Recipe(
            "square:448", (Stretch(448, 448, **BICUBIC), RGB()), CLIP.mean, CLIP.std
        )
        assert check_recipe("square:0224").name == "square:224"
        assert check_recipe("aspect:600,1000").name == "aspect:600,1000"

    def test_model_is_the_backbones_own(self):
        assert recipe_of("model").steps == (Shortest(224, **BICUBIC), Crop(224, 224), RGB())
        views = recipe_of("views")
        assert (views.steps, views.views, views.name) == (recipe_of("model").steps, 36, "views")
        assert views.vector == "embedding"

    def test_layer_and_vector_are_fields(self):
        recipe = recipe_of("vqa600", layer="penultimate", vector="class_token")
        assert (recipe.layer, recipe.vector) == ("penultimate", "class_token")
        assert recipe.to_json()["layer"] == "penultimate"

    @pytest.mark.parametrize(
        ("name", "code", "hint"),
        [
            ("caption44", "E-RECIPE-NAME", "did you mean caption448"),
            ("vqa", "E-RECIPE-NAME", "did you mean vqa600"),
            ("pretrain348", "E-RECIPE-NAME", "did you mean pretrain384"),
            ("square", "E-RECIPE-NAME", ""),
            ("square:", "E-RECIPE-NAME", ""),
            ("square:-1", "E-RECIPE-NAME", ""),
            ("square:224,224", "E-RECIPE-NAME", ""),
            ("square:0", "E-RECIPE-SIDE", "1 to 4096"),
            ("square:99999", "E-RECIPE-SIDE", "1 to 4096"),
            ("aspect:600", "E-RECIPE-NAME", ""),
            ("aspect:600,0", "E-RECIPE-SIDE", "1 to 4096"),
            ("aspect:1000,600", "E-RECIPE-SIDE", "aspect:600,1000"),
            ("", "E-RECIPE-NAME", ""),
            ("none.toml", "E-RECIPE-FILE", "No such file"),
        ],
    )
    def test_refused(self, name, code, hint):
        with refuses(code, f"--recipe {name}", hint, kind=ExtractUsageError):
            check_recipe(name)

    @pytest.mark.parametrize("field", [{"layer": "penultimate"}, {"vector": "class_token"}])
    def test_views_keep_embeddings_and_nothing_else(self, field):
        with refuses("E-RECIPE-VIEWS", "--layer and --class-token", kind=ExtractUsageError):
            recipe_of("views", **field)


class TestGeometryByHand:
    """(width, height) of a file; (height, width) that enters the backbone; its 32 px cells."""

    @pytest.mark.parametrize(
        ("name", "size", "pixels", "grid"),
        [
            ("vqa600", (640, 480), (600, 1000), (18, 31)),
            ("vqa600", (480, 640), (600, 1000), (18, 31)),  # portrait too, as published
            ("caption448", (640, 480), (448, 448), (14, 14)),
            ("pretrain384", (640, 480), (384, 640), (12, 20)),
            ("pretrain384", (480, 640), (640, 384), (20, 12)),
            ("pretrain384", (500, 500), (640, 384), (20, 12)),  # a square counts as portrait
            ("pretrain384", (501, 500), (640, 384), (20, 12)),  # and becomes one: int(384.8)
            ("pretrain384", (502, 500), (384, 640), (12, 20)),
            ("pretrain384", (1000, 300), (384, 640), (12, 20)),
            ("model", (640, 480), (224, 224), (7, 7)),
            ("views", (640, 480), (224, 224), (36, 1)),
            # 480 * 1.25 = 600 is 18.75 cells, 640 * 1.25 = 800 is 25.
            ("aspect:600,1000", (640, 480), (608, 800), (19, 25)),
            # 1000 / 1000 = 1 is less than 600 / 300: 300 is 9.4 cells, 1000 is 31.25.
            ("aspect:600,1000", (1000, 300), (288, 992), (9, 31)),
            ("aspect:600,1000", (5000, 20), (32, 992), (1, 31)),  # 4 px are one cell all the same
            ("aspect:48,48", (100, 100), (64, 64), (2, 2)),  # half a cell goes up
        ],
    )
    def test_worked_examples(self, name, size, pixels, grid):
        recipe = recipe_of(name)
        assert recipe.size(*size) == pixels
        assert recipe.grid_shape(size, CELL) == GridShape(*grid)

    @pytest.mark.parametrize(
        ("name", "size", "resized"),
        [
            ("vqa600", (640, 480), (800, 600)),
            ("vqa600", (1000, 300), (1000, 300)),  # 2000 x 600 is halved again
            ("vqa600", (333, 500), (600, 901)),  # 500 * 600 / 333 = 900.9
            ("vqa600", (500, 101), (1000, 202)),
            ("pretrain384", (640, 480), (512, 384)),
            ("pretrain384", (333, 500), (384, 576)),  # 576.6 rounded down
            ("pretrain384", (1000, 300), (640, 192)),
            ("pretrain384", (1000, 312), (641, 200)),  # 199.68 goes up, so 640 is overrun
            ("model", (640, 481), (298, 224)),
        ],
    )
    def test_the_first_resize(self, name, size, resized):
        assert recipe_of(name).sizes(*size)[0] == resized

    @pytest.mark.parametrize("name", ["vqa600", "pretrain384", "model", "aspect:64,96"])
    def test_an_unknown_size_and_a_line_without_pixels_count_as_a_square(self, name):
        recipe = recipe_of(name)
        assert recipe.size(0, 0) == recipe.size(777, 777)
        assert recipe.size(2**31 - 1, 1) in {recipe.size(777, 777), recipe.size(999, 2)}

    @given(SIZES, st.sampled_from([14, 16, 32]), st.integers(14, 1200), st.integers(0, 1200))
    def test_whole_cells_are_the_nearest_ones(self, size, cell, shortest, more):
        recipe = recipe_of(f"aspect:{shortest},{shortest + more}", (cell, cell))
        scale = min(Fraction(shortest, min(size)), Fraction(shortest + more, max(size)))
        expected = [max(1, int(side * scale / cell + Fraction(1, 2))) for side in size]
        cols, rows = expected
        assert recipe.grid_shape(size, (cell, cell)) == (rows, cols)
        assert recipe.size(*size) == (rows * cell, cols * cell)


class TestJson:
    NAMES = ("caption448", "vqa600", "pretrain384", "model", "views", "aspect:600,1000")

    @pytest.mark.parametrize("name", NAMES)
    def test_comes_back_from_plain_values(self, name):
        recipe = recipe_of(name, (14, 16))
        value = recipe.to_json()
        assert json.loads(json.dumps(value)) == value
        assert Recipe.from_json(json.loads(json.dumps(value))) == recipe

    def test_is_what_the_format_documents(self):
        assert recipe_of("pretrain384").to_json() == {
            "name": "pretrain384",
            "steps": [
                {"step": "shortest-maskrcnn", "side": 384, "longest": 640, **BILINEAR},
                {"step": "rgb"},
                {
                    "step": "pad",
                    "height": 384,
                    "width": 640,
                    "turn": True,
                    "odd": "first",
                    "cell": [32, 32],
                },
            ],
            "mean": list(OPENAI_DATASET_MEAN),
            "std": list(OPENAI_DATASET_STD),
            "layer": "final",
            "vector": None,
            "views": None,
        }

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            ({"name": 1}, "recipe.name"),
            ({"extra": 1}, "'extra'"),
            ({"steps": {}}, "recipe.steps"),
            ({"steps": []}, "recipe.steps"),
            ({"steps": [{"step": "rgb"}] * 10**5}, "16"),
            ({"steps": [1]}, "recipe.steps.0"),
            ({"steps": [{"step": "strech"}]}, "did you mean stretch"),
            ({"steps": [{"step": ["x"]}]}, "recipe.steps.0.step"),
            ({"steps": [{"step": "stretch", "height": 1}]}, "width"),
            ({"steps": [{"step": "stretch", "heigth": 1}]}, "did you mean height"),
            ({"steps": [{"step": "shortest", "side": True}]}, "recipe.steps.0.side"),
            ({"steps": [{"step": "shortest", "side": 1.5}]}, "recipe.steps.0.side"),
            ({"steps": [{"step": "shortest", "side": 10**9}]}, "4096"),
            ({"steps": [{"step": "whole-cells", "shortest": 1, "longest": 1, "cell": [0, 1]}]},
             "recipe.steps.0.cell.0"),
            ({"steps": [{**STRETCH, "interpolation": "lanczos"}]}, "bicubic"),
            ({"steps": [{**STRETCH, "passes": "vertical-first"}]}, "horizontal-first"),
            ({"steps": [{"step": "stretch", "height": 1, "width": 1}]}, "interpolation is missing"),
            ({"interpolation": "bicubic"}, "'interpolation'"),
            ({"mean": [0, 0]}, "recipe.mean"),
            ({"mean": [0, 0, float("nan")]}, "recipe.mean.2"),
            ({"std": [1, 1, 0]}, "recipe.std.2"),
            ({"std": [1, 1, 10**400]}, "recipe.std.2"),
            ({"layer": "last"}, "final-no-norm"),
            ({"layer": []}, "recipe.layer"),
            ({"vector": "cls"}, "class_token"),
            ({"views": 0}, "36"),
            ({"views": True}, "recipe.views"),
        ],
    )  # fmt: skip
    def test_any_other_value_is_refused(self, change, place):
        with refuses("E-RECIPE-VALUE", place, kind=StoreError):
            Recipe.from_json({**recipe_of("model").to_json(), **change})

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"steps": [{"step": "rgb"}] * 2}, "E-RECIPE-STEPS"),
            ({"steps": [{"step": "rgb"}]}, "E-RECIPE-STEPS"),
            ({"views": 36}, "E-RECIPE-VIEWS"),
        ],
    )
    def test_steps_and_vector_must_go_together(self, change, code):
        with refuses(code, kind=StoreError):
            Recipe.from_json({**recipe_of("model").to_json(), **change})

    @pytest.mark.parametrize("key", recipe_of("model").to_json())
    def test_every_key_is_needed(self, key):
        value = recipe_of("model").to_json()
        del value[key]
        with refuses("E-RECIPE-VALUE", f"the key {key} is missing", kind=StoreError):
            Recipe.from_json(value)

    def test_only_rgb_comes_after_pad(self):
        pad = Pad(64, 64, turn=False, odd="last", cell=CELL)
        with refuses("E-RECIPE-STEPS", "pad", kind=StoreError):
            Recipe("r", (pad, Stretch(64, 64, **BICUBIC), RGB()), CLIP.mean, CLIP.std)


class TestFile:
    def own(self, tmp_path, text, cell=CELL, **fields):
        (tmp_path / "own.toml").write_text(text)
        return make_recipe(str(tmp_path / "own.toml"), CLIP, cell, **fields)

    def test_what_it_leaves_out_is_the_backbones(self, tmp_path):
        recipe = self.own(tmp_path, OWN, (16, 16))
        pad = Pad(320, 512, turn=True, odd="last", cell=(16, 16))
        shortest = ShortestMaskRCNN(320, 512, **BILINEAR)
        assert (recipe.name, recipe.steps) == ("own", (RGB(), shortest, pad))
        assert (recipe.mean, recipe.std) == (CLIP.mean, (0.5, 0.5, 0.5))
        assert (recipe.layer, recipe.vector) == ("penultimate", "class_token")
        assert check_recipe(str(tmp_path / "own.toml")).name == "own"

    def test_the_conversion_to_rgb_is_the_last_step_unless_it_says_otherwise(self, tmp_path):
        text = 'name = "a"\nsteps = [{ step = "stretch", height = 96, width = 64 }]'
        recipe = self.own(tmp_path, text, layer="final-no-norm")
        assert recipe.steps == (Stretch(96, 64, **BICUBIC), RGB())
        assert recipe.layer == "final-no-norm"

    @pytest.mark.parametrize(
        ("old", "new", "code", "hint"),
        [
            ("name", "nmae", "E-RECIPE-NAME", "name"),
            ('"own"', '"vqa600"', "E-RECIPE-NAME", "vqa600"),
            ('"own"', '"../x"', "E-RECIPE-NAME", "name"),
            ("steps", "stepz", "E-RECIPE-VALUE", "did you mean steps"),
            ("longest", "longer", "E-RECIPE-VALUE", "did you mean longest"),
            ('"pad"', '"pda"', "E-RECIPE-VALUE", "did you mean pad"),
            ("= 512,", "= 5120,", "E-RECIPE-VALUE", "recipe.steps.1.longest"),
            ("bilinear", "nearest", "E-RECIPE-VALUE", "bicubic"),
            ("[0.5, 0.5, 0.5]", '"half"', "E-RECIPE-VALUE", "recipe.std"),
            ("penultimate", "penultimat", "E-RECIPE-VALUE", "did you mean penultimate"),
            ("std", "views = 36\nstd", "E-RECIPE-VALUE", "'views'"),
            ("= [0.5", "= 0.5", "E-RECIPE-FILE", "TOML"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, old, new, code, hint):
        assert old in OWN
        with refuses(code, "own.toml: ", hint, kind=ExtractUsageError):
            self.own(tmp_path, OWN.replace(old, new, 1))

    @pytest.mark.parametrize(
        ("field", "options"),
        [
            ({"layer": "final-no-norm"}, "--layer"),
            ({"vector": "embedding"}, "--pooled and --class-token"),
        ],
    )
    def test_an_option_that_it_settles_itself_is_refused(self, tmp_path, field, options):
        with refuses("E-RECIPE-CONFLICT", f"drop {options}", kind=ExtractUsageError):
            self.own(tmp_path, OWN, **field)

    @pytest.mark.parametrize("text", ["a = " + "[" * 60000, "#" * 70000, "a = \0"])
    def test_a_file_made_to_harm_is_refused(self, tmp_path, text):
        with refuses("E-RECIPE-FILE", kind=ExtractUsageError):
            self.own(tmp_path, text)
