"""The site of the documents: built without a warning, whole, and with nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "-q",
        "-f",
        ROOT / "mkdocs.yml",
        "-d",
        folder,
    ]
    environment = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return folder


def test_every_page_is_there(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert names <= {path.name for path in site.iterdir()}


def test_links_lead_to_pages_and_sources_are_named(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="embed/"' in text
    assert "<code>csrc/</code>" in text
    assert 'href="csrc' not in text
    for image in re.findall(r'<img [^>]*src="([^"]+)"', text):
        assert (site / image).is_file(), image


def test_the_reference_has_what_is_public(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    names = set(re.findall(r'id="fusion_engine\.([\w.]+)"', text))
    assert {
        "Engine.embed",
        "Engine.embed_stream",
        "build",
        "export.export",
        "errors.AudioError",
        "probe.probe",
        "ray.embed",
        "triton.write_repository",
    } <= names


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?https?://", text), (
            page
        )
