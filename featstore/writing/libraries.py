"""Which versions of which libraries have touched the pixels of a store."""

from collections.abc import Iterable, Mapping
from typing import Any

MAX_LIBRARIES = 32  # that one process names
MAX_TEXT = 100  # characters of a name or a version
JOINED = ", "  # between versions, where several processes had different ones


def checked_libraries(value: Any) -> dict[str, str]:
    """Return {name: version} as it was given, raising ValueError for anything else."""
    if type(value) is not dict or len(value) > MAX_LIBRARIES:
        raise ValueError(f"expected at most {MAX_LIBRARIES} libraries")
    for text in (*value, *value.values()):
        if type(text) is not str or not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
            raise ValueError(f"{text!r:.80} is no name or version of a library")
    return value


def merge_libraries(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return every library with its version; with all of its versions, if there are several.

    >>> merge_libraries([{"torch": "2.7", "pillow": "11"}, {"torch": "2.6"}, {"torch": "2.6, 2.7"}])
    {'pillow': '11', 'torch': '2.6, 2.7'}
    """
    versions: dict[str, set[str]] = {}
    for libraries in several:
        for name, version in libraries.items():
            versions.setdefault(name, set()).update(version.split(JOINED))
    return {name: JOINED.join(sorted(versions[name])) for name in sorted(versions)}
