"""The card of a dataset on the Hub, from what a store says about itself; nothing is guessed."""

import json
import re

from ...base.text import counted
from ..lookup import Status
from ..metadata import StoreMetadata

# Licences that the Hub knows by name; any other is given as "other", with its name in letters that
# the Hub takes.
# https://huggingface.co/docs/hub/repositories-licenses
LICENCES = frozenset(
    [
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "gpl-3.0",
        "mit",
        "odbl",
    ]
)


def dataset_card(metadata: StoreMetadata, url: str, licence_file: str | None = None) -> str:
    """Return a README.md for the dataset that has the store at `url`.

    `licence_file` is the file of the repository with the text of the licence, if it has one.
    """
    header = ["tags:", "- clipfeat", "- zarr", "- image-features"]
    about, identity, backbone = metadata.about, metadata.identity, metadata.identity.backbone
    if about.title:
        header.insert(0, f"pretty_name: {_yaml(about.title)}")
    if about.licence:
        name = re.sub("[^a-z0-9.]+", "-", about.licence.lower()).strip("-")
        lines = [f"license: {name}"]
        if name not in LICENCES:
            lines = ["license: other", f"license_name: {_yaml(name[:80] or 'custom')}"]
            lines += [f"license_link: {licence_file}"] if licence_file else []
        header = lines + header
    rows = {
        "model": f"{backbone.get('model')} ({backbone.get('pretrained', backbone.get('format'))})",
        "recipe": str(identity.recipe.get("name")),
        "numbers": f"{identity.dtype}, {identity.dim} channels",
        "grids": ", ".join(metadata.grid_shapes),
        "images": counted(metadata.counts[Status.OK], "record") + f" of {metadata.id_count:,} ids",
        "licence of the features": about.licence or "not stated",
        "licence of the images": about.source_licence or "not stated",
        "homepage": about.homepage or "",
        "digest": f"`{metadata.digest}`",
    }
    table = [f"| {name} | {_cell(text)} |" for name, text in rows.items() if text]
    parts = [
        "\n".join(["---", *header, "---"]),
        f"# {about.title or 'Image features'}",
        about.description or "",
        "\n".join(["| | |", "|---|---|", *table]),
        f"A feature store of clipfeat. To copy and verify it:\n\n    clipfeat store pull {url} DIR",
        f"## Citation\n\n{about.citation}" if about.citation else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _yaml(text: str) -> str:
    """Return a text as YAML, of which the texts of JSON are a part."""
    return json.dumps(text, ensure_ascii=False)


def _cell(text: str) -> str:
    """Return a text as a cell of a table in Markdown."""
    return " ".join(text.split()).replace("|", "\\|")
