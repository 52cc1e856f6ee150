"""Checks of a recipe's values, which may come from a stranger's store or a file by hand."""

import difflib
from typing import Any, get_args

from ...featstore import StoreError

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
