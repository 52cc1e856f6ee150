"""Five captions of a scene."""

from .scenes import Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four")
ROWS, COLS = ("top", "", "bottom"), ("left", "", "right")


def make_captions(scene: Scene) -> tuple[str, ...]:
    """Return five captions, from the most to the least precise."""
    things = scene.things
    count = NUMBERS[len(things)]
    shapes = "shape" if len(things) == 1 else "shapes"
    box = [" and a closed gray box", " next to a closed gray box"] if scene.box else ["", ""]
    first, last = things[0], things[-1]
    relation = f"{_a(first.name)} {_relation(first, last)} {_a(last.name)}"
    if len(things) == 1:
        relation = f"just {_a(first.name)} and nothing else of color"
    return tuple(
        text[0].upper() + text[1:] + "."
        for text in (
            _list([f"{_a(f'{t.size} {t.name}')} {_where(t)}" for t in things]) + box[0],
            f"a picture of {_list([_a(t.name) for t in things])}",
            relation + box[1],
            f"there {'is' if len(things) == 1 else 'are'} {count} {shapes} on a gray background",
            f"{count} colored {shapes}{box[0]}",
        )
    )


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _list(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _where(thing: Thing) -> str:
    place = f"{ROWS[thing.row]} {COLS[thing.col]}".strip()
    return f"at the {place}" if place else "in the middle"


def _relation(one: Thing, other: Thing) -> str:
    dx, dy = other.x - one.x, other.y - one.y
    if abs(dx) >= abs(dy):
        return "to the left of" if dx > 0 else "to the right of"
    return "above" if dy > 0 else "below"
