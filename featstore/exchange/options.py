"""What a user says about a source or a destination, since files themselves do not say it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...base.errors import UsageError
from ...base.parquet import read_columns

CHANNELS = ("rgb", "bgr")
JOURNAL_ENDING = ".export.json"  # of the file beside a destination while it is incomplete

Sizes = Mapping[str, tuple[int, int]]  # image id to width and height in pixels


@dataclass(frozen=True)
class Options:
    """What cannot be known from the files of a format; None: the user has not said it."""

    layout: str | None = None  # of the arrays; each format has its own choices
    channels: Literal["rgb", "bgr"] | None = None  # of the pictures that the features were made of
    sizes: Sizes = field(default_factory=dict[str, tuple[int, int]])  # empty: not given


def chosen(option: str, value: str | None, choices: Sequence[str], why: str) -> str:
    """Return the value of an option, which must be one of `choices`.

    `why` says what the choices mean. Raises UsageError: E-IMPORT-LAYOUT, E-IMPORT-CHANNELS.
    """
    if value is not None and value in choices:
        return value
    code = f"E-IMPORT-{option.strip('-').upper()}"
    got = "it is not given" if value is None else f"got {value!r:.80}"
    raise UsageError(f"{option} must be one of {', '.join(choices)}: {why}; {got}", code=code)


def needs_sizes(what: str) -> UsageError:
    """Return the error for a source whose boxes need the sizes of the images; `what` says why."""
    return UsageError(
        f"{what}: the sizes of the images are needed; make a manifest of the images "
        f"(clipfeat manifest IMAGES -o images.parquet) and give it with --sizes images.parquet",
        code="E-IMPORT-SIZES",
    )


def read_sizes(path: Path) -> Sizes:
    """Return the width and height of each image of a manifest; images of unknown size are left out.

    Raises UsageError (E-IMPORT-SIZES) for a file that is not a manifest.
    """

    def refuse(reason: str) -> Exception:
        return UsageError(
            f"--sizes {path}: {reason}; give a manifest that clipfeat manifest has written",
            code="E-IMPORT-SIZES",
        )

    rows = read_columns(path, ("image_id", "width", "height"), refuse)
    sizes: dict[str, tuple[int, int]] = {}
    for image_id, width, height in rows:
        if not (isinstance(image_id, str) and isinstance(width, int) and isinstance(height, int)):
            raise refuse("its columns must be image_id (text), width and height (whole numbers)")
        if min(width, height) > 0:
            sizes[image_id] = (width, height)
    return sizes
