"""Pages of the site that lie beside its folder: README is its first, and so are their links."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = {
    "index.md": "README.md",
    **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")},
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    for name, source in BESIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to pages, and leave of those to sources what they say."""

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        path = path.removeprefix("../").removeprefix("docs/")
        path = "index.md" if path == "README.md" else path
        if target.startswith(("http", "#")) or files.get_file_from_path(path):
            return f"{image}[{text}]({path}{hash_}{anchor})"
        return text

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)
