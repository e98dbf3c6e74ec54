import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fusion_engine.map import draw_map

from .tables import HOSTILE, write_table

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "python/fusion_engine/map/assets"
EMBEDDINGS = np.random.default_rng(2).standard_normal((len(HOSTILE), 6))


class Page(HTMLParser):
    """What a page holds: elements with their attributes, and the text of scripts and styles."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.inside = [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.text.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.text[-1] += data

    def all(self, tag):
        pairs = zip(self.elements, self.text, strict=True)
        return [(attributes, text) for (name, attributes), text in pairs if name == tag]

    def block(self, name):
        (text,) = (text for attributes, text in self.all("script") if attributes.get("id") == name)
        return json.loads(text)


def source(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.fixture
def made(tmp_path):
    # A table's name is a file's too, and may hold bytes that are no text.
    table = write_table(tmp_path / "<script>caf\udce9.npz", HOSTILE, EMBEDDINGS)
    draw_map(table, tmp_path / "map.html", method="pca")
    return Page(tmp_path / "map.html")


def test_what_is_in_the_page(made):
    data = made.block("data")
    links = data["files"]
    paths = [links["folders"][f] + n for f, n in zip(links["folder"], links["name"], strict=True)]
    assert paths == [name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE]
    assert data["count"] == len(HOSTILE)
    assert len(base64.b64decode(data["points"])) == 4 * len(HOSTILE)
    assert data["channel"] is None
    assert made.block("recordings") == {}


def test_names_do_not_leave_their_element(made):
    """The elements are those of the template, whatever the names."""
    template = Page(ASSETS / "map.html")
    assert [tag for tag, _ in made.elements] == [tag for tag, _ in template.elements]
    (_, title), *_ = made.all("title")
    assert title == "<script>caf\\udce9.npz · map"


def test_the_policy_is_of_what_is_there(made):
    (policy,) = (
        attributes["content"]
        for attributes, _ in made.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    ((_, style),) = made.all("style")
    (script,) = (text for attributes, text in made.all("script") if not attributes)
    assert policy == (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)} {source('')}; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )
    # Before anything that it is about.
    tags = [tag for tag, _ in made.elements]
    (place,) = (k for k, (_, said) in enumerate(made.elements) if "http-equiv" in said)
    assert place < min(tags.index("style"), tags.index("script"), tags.index("title"))


def test_nothing_is_loaded_from_elsewhere(made):
    for tag, attributes in made.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        assert not {"src", "href", "srcset", "action", "style"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    (script,) = (text for attributes, text in made.all("script") if not attributes)
    ((_, style),) = made.all("style")
    assert "url(" not in style
    assert "@import" not in style
    for call in ("fetch(", "XMLHttpRequest", "WebSocket(", "importScripts", "sendBeacon"):
        assert call not in script


def test_recordings_of_a_table_with_channels(tmp_path):
    paths = ["a.wav", "a.wav", "b.wav"]
    table = write_table(tmp_path / "t.parquet", paths, np.eye(3), channels=[1, 2, 1])
    draw_map(table, tmp_path / "map.html", method="pca")
    data = Page(tmp_path / "map.html").block("data")
    assert np.frombuffer(base64.b64decode(data["channel"]), "<i4").tolist() == [1, 2, 1]
    assert np.frombuffer(base64.b64decode(data["file"]), "<u4").tolist() == [0, 0, 1]


def test_what_a_row_costs(tmp_path):
    """As `docs/map.md` has it."""
    sizes = []
    for rows in (3000, 6000):
        values = np.random.default_rng(0).standard_normal((rows, 3))
        table = write_table(tmp_path / "t.npz", ["a.wav"] * rows, values)
        draw_map(table, tmp_path / "map.html", method="pca")
        sizes.append((tmp_path / "map.html").stat().st_size)
    assert 38.5 < (sizes[1] - sizes[0]) / 3000 < 39.5
    assert sizes[0] - 39 * 3000 < 350_000


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = write_table(tmp_path / "t.parquet", HOSTILE, EMBEDDINGS)
    pages = [tmp_path / f"{n}.html" for n in range(2)]
    for page in pages:
        draw_map(table, page, method="pca", seed=4)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_assets_are_made_of_the_sources():
    """As `node build.mjs` in ``web/`` does: it writes what it has read as a digest."""
    digest = hashlib.sha256()
    web = ROOT / "web"
    for path in (*sorted((web / "src").iterdir()), web / "build.mjs", web / "package-lock.json"):
        digest.update(path.read_bytes())
    script = (ASSETS / "map.js").read_text(encoding="utf-8")
    said = re.match(r"// Made by web/build\.mjs of sources (\w+)\n", script)
    assert said[1] == digest.hexdigest(), "run `npm ci && node build.mjs` in web/"
    assert (ASSETS / "map.html").read_bytes() == (ROOT / "web/src/page.html").read_bytes()


def test_licences_of_all_that_is_bundled():
    packages = json.loads((ROOT / "web/package-lock.json").read_text())["packages"]
    text = (ASSETS / "licences.txt").read_text(encoding="utf-8")
    used = {
        path.rpartition("node_modules/")[2]: entry
        for path, entry in packages.items()
        if path and not entry.get("dev")
    }
    del used["regl"]  # Plotly's is in its place
    for name, entry in used.items():
        assert f"{name} {entry['version']} ({entry['license']})\n" in text, name
        assert entry["license"] in ("MIT", "ISC")
    assert text.count("opyright") >= len(used)
