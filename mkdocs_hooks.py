"""README.md as the first page, and links to files outside docs/; mkdocs.yml loads these functions."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md as the page index.md."""
    files.append(File.generated(config, "index.md", content=README.read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between README.md and docs/; other files are linked where the repository is.

    A link to what does not exist stays as it is, and mkdocs reports it.
    """
    in_site = DOCS / page.file.src_uri
    source = README if page.file.src_uri == "index.md" else in_site

    def rewrite(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link[0]))
        if not target.exists():
            return link[0]
        if target == README:
            target = DOCS / "index.md"
        if target.is_relative_to(DOCS):
            return os.path.relpath(target, in_site.parent)
        return f"{config.extra['repository']}/blob/main/{target.relative_to(ROOT)}"

    return LINK.sub(rewrite, markdown)
