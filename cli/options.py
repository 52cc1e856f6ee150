"""Options that several commands share: --json, and the trainers' --device."""

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
device = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one."
)
