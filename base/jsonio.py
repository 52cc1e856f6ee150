"""Read JSON that others wrote: bounded in size and depth, whatever is in it an ordinary error."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .files import read_bytes, text_lines

LONGEST_LINE = 1 << 26  # bytes of one record of JSON lines


def parse_json(
    content: bytes | str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Return what JSON text says; bytes are UTF-8, with or without a byte-order mark.

    Raises ValueError for whatever is not JSON: bad bytes, nesting too deep for the parser, a
    number of more digits than Python converts.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_hook=object_hook)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python's text has advice for programmers
        raise ValueError("has a number of too many digits") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_json(path: str | Path, limit: int, *, follow: bool = False) -> Any:
    """Return what a JSON file of at most `limit` bytes says.

    Raises OSError as `read_bytes` does, ValueError as `parse_json` does.
    """
    return parse_json(read_bytes(path, limit, follow=follow))


def json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, what it says) of each line of a file that a user brings, but blank ones.

    Raises OSError as `text_lines` does, ValueError that begins with the number of the line for
    what is not JSON.
    """
    for number, text in text_lines(path, LONGEST_LINE):
        if text.strip():
            try:
                found = parse_json(text)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from None
            yield number, found
