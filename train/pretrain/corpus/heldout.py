"""Read a list of images to hold out."""

from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError
from ....base.files import read_text, split_lines
from ....base.jsonio import parse_json
from ...grounded.images import coco_number
from ...runs.jsonfile import DATA, identifier


def read_held_out(path: Path) -> frozenset[int]:
    """Return the numbers in COCO of the images that a file lists.

    It has an image a line, a number or a name such as COCO_val2014_000000000042, or is a JSON list
    of records with `img_id`, as LXMERT's minival files are; an image may come many times. Raises
    ClipfeatError for another file, and for one that lists none.
    """
    try:
        text = read_text(path, DATA)
        content = parse_json(text) if text.lstrip().startswith(("[", "{")) else None
    except OSError as error:
        raise ClipfeatError(
            f"{path}: cannot be read ({error.strerror})", code="E-HELD-OUT-READ"
        ) from None
    except ValueError as error:
        raise ClipfeatError(f"{path}: not a readable JSON file ({error})") from None
    if content is not None:
        listed = _records(path, content)
    else:
        lines = enumerate(split_lines(text), start=1)
        listed = [(f"{path}, line {number}", line.strip()) for number, line in lines]
    numbers = frozenset(_number(image, where) for where, image in listed if image)
    if not numbers:
        raise ClipfeatError(f"{path}: lists no image; leave --held-out away to have some chosen")
    return numbers


def _records(path: Path, content: Any) -> list[tuple[str, str]]:
    if not isinstance(content, list):
        raise ClipfeatError(f"{path}: expected a list of records with img_id; got {content!r:.60}")
    places = ((f"{path}: [{number}]", record) for number, record in enumerate(content))
    return [(where, str(identifier(record, "img_id", where))) for where, record in places]


def _number(image: str, where: str) -> int:
    number = coco_number(image)
    if number is None:
        raise ClipfeatError(
            f"{where}: expected a number of COCO, or a name such as COCO_val2014_000000000042; "
            f"got {image!r:.60}"
        )
    return number
