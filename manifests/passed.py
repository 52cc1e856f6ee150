"""What is passed over where images are looked for: nothing vanishes without a word."""

from collections.abc import Callable, Iterable

from ..base.text import printable
from .names import ODD, without_odd

Say = Callable[[str], None]  # takes a line for a person

HIDDEN = "hidden or system files and folders"
NO_IMAGES = "files that are not images"
DANGLING = "links that lead nowhere"


class Passed:
    """What is passed over in one place, counted by what it is, with one name of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def add(self, what: str, name: str) -> None:
        """Count one more; `what` is a plural, such as "links that lead nowhere"."""
        self._counts[what] = self._counts.get(what, 0) + 1
        self._names.setdefault(what, name)

    def say(self, where: str, say: Say) -> None:
        """Tell `say` a line for each kind."""
        for what, count in self._counts.items():
            name = printable(without_odd(self._names[what])) or "an empty name"
            say(f"{where}: {what} passed over: {count:,}, such as {name:.200}")


def say_odd_names(where: str, paths: Iterable[str], say: Say) -> None:
    """Tell `say` how many of the paths have no UTF-8, since their ids look odd."""
    odd = [path for path in paths if not path.isascii() and ODD.search(path)]
    if odd:
        say(
            f"{where}: names that are not UTF-8, of which ids and paths have escapes: {len(odd):,}, "
            f"such as {printable(without_odd(odd[0]))}"
        )
