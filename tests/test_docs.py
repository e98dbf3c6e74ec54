"""The documents: their links lead somewhere, and the files that they name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# What the pages say of the sources' layout.
LAYOUT = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")
FOLDERS = "cmake|csrc|docs|engine|examples|export|python|tests"


def without_code(text):
    """Markdown without blocks of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(page):
    """What GitHub calls the headings of a page."""
    text = without_code(page.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_there_are_links():
    """So that the test above does not pass for want of any."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert f"](docs/{page.name}" in readme, f"README leads to every page, not to {page.name}"


@pytest.mark.parametrize("name", LAYOUT)
def test_files_that_are_named_exist(name):
    """`engine/{a,b}.py`, `csrc/*.h` and `tests/csrc` stand for files, and each is there."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for span in re.findall(rf"`((?:{FOLDERS})/[^`\s]*)`", text):
        for path in alternatives(span):
            assert list(ROOT.glob(path)), f"{name} names {path}"


def alternatives(path):
    """The paths that braces stand for, as in a shell."""
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        return [path.rstrip("/")]
    parts = [path[: found.start()] + part + path[found.end() :] for part in found[1].split(",")]
    return [inner for part in parts for inner in alternatives(part)]
