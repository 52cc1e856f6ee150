"""The pictures of one record: the views of a panorama, in a folder of their own."""

import os
import re

NUMBER = re.compile(r"\d+")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def view_files(root: str, folder: str, count: int) -> list[str]:
    """Return the paths, relative to `root`, of the images in a viewpoint's folder, in view order.

    The last number in a file's stem says which view it is, 0 to `count` - 1. Other files than
    images are passed over. Raises FileNotFoundError if there is no such folder, OSError if it
    cannot be listed, and ValueError unless it holds each view once.
    """
    found: dict[int, str] = {}
    names = sorted(os.listdir(f"{root}/{folder}"))  # noqa: PTH208 - root may be a URL one day
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() not in SUFFIXES:
            continue
        numbers = NUMBER.findall(stem)
        # No more than four digits count: a hash may end in many.
        if not numbers or len(numbers[-1].lstrip("0")) > 4 or int(numbers[-1]) >= count:
            raise ValueError(f"{name!r:.100} has no number of a view, 0 to {count - 1}")
        view = int(numbers[-1])
        if view in found:
            raise ValueError(f"{found[view]!r:.100} and {name!r:.100} are both view {view}")
        found[view] = name
    missing = next((view for view in range(count) if view not in found), None)
    if missing is not None:
        raise ValueError(f"the folder has {len(found)} of {count} views; view {missing} is missing")
    return [f"{folder}/{found[view]}" for view in range(count)]
