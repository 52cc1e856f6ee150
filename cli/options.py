"""Options that several commands share: --json, statuses, --break-lock, those of the trainers."""

from typing import Any

import click

REFUSED = ("missing", "undecodable", "too_large", "unsupported", "failed")


class StatusList(click.ParamType):
    """Statuses of ids, with commas between them; `ok` only where it makes sense."""

    name = "status"

    def __init__(self, *more: str):
        self._allowed = (*more, *REFUSED)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        statuses = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        for status in statuses:
            if status not in self._allowed:
                self.fail(f"{status!r} is not one of {', '.join(self._allowed)}", param, ctx)
        return statuses


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
break_lock = click.option(
    "--break-lock", is_flag=True, help="Take over from a dead process on another host."
)
skip_missing = click.option(
    "--skip-missing",
    type=click.IntRange(min=0),
    metavar="N",
    help="Go on where at most N questions of a split ask about images without features.",
)
device = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one."
)
