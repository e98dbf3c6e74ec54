import base64
import os
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import numpy as np
import pytest

from fusion_engine import FusionEngineError
from fusion_engine.map import recordings as module
from fusion_engine.map.recordings import Recordings

from .tables import HOSTILE


def targets(recordings, page):
    """The files that a browser opens, by somebody else's idea of links."""
    links = recordings.links(page)
    for number, name in enumerate(links["name"]):
        encoded = links.get("odd", {}).get(str(number))
        if encoded is None:
            encoded = "".join(f"%{byte:02x}" for byte in name.encode())
        base = f"file://{os.fspath(page.parent)}/"
        url = urlsplit(urljoin(base, links["hrefs"][links["folder"][number]] + encoded))
        assert (url.scheme, url.query, url.fragment) == ("file", "", "")
        yield unquote_to_bytes(url.path)


def test_each_recording_once():
    recordings = Recordings.of(["b.wav", "a.wav", "b.wav"], "in")
    assert recordings.paths == ["b.wav", "a.wav"]
    assert list(map(str, recordings.files)) == ["in/b.wav", "in/a.wav"]
    np.testing.assert_array_equal(recordings.of_row, [0, 1, 0])


def test_links_lead_to_hostile_names(tmp_path):
    page = tmp_path / "maps" / "map.html"
    files = [tmp_path / name for name in HOSTILE if "/s" not in name]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    paths = [os.fspath(f.relative_to(tmp_path)) for f in files]
    paths = [path.encode("utf-8", "backslashreplace").decode() for path in paths]
    recordings = Recordings.of(paths, tmp_path)
    assert recordings.missing() == 0
    assert list(targets(recordings, page)) == [os.fsencode(file) for file in files]


def test_links_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings = Recordings.of(["in/a.wav", "../b.wav", "/abs/c.wav", "x:y/%41 #?/d.wav"], ".")
    expected = [
        tmp_path / "in/a.wav",
        tmp_path.parent / "b.wav",
        "/abs/c.wav",
        tmp_path / "x:y/%41 #?/d.wav",
    ]
    assert list(targets(recordings, tmp_path / "m.html")) == list(map(os.fsencode, expected))
    assert recordings.links("m.html")["hrefs"][0] == "./in/"
    assert recordings.links("out/m.html")["hrefs"][0] == "./../in/"
    assert all(href.startswith("./") for href in recordings.links("m.html")["hrefs"])


def test_names_that_no_file_has():
    recordings = Recordings.of(["a\0.wav", "x" * 5000, ""], ".")
    assert recordings.missing() == 3
    assert recordings.embedded() == {}


def test_the_bytes(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"12345")
    recordings = Recordings.of(["b.wav", "a.wav"], tmp_path)
    assert recordings.embedded() == {"1": base64.b64encode(b"12345").decode()}
    monkeypatch.setattr(module, "EMBEDDED_MAX_BYTES", 4)
    with pytest.raises(FusionEngineError, match=r"1 recording of 0 MB are too much to embed"):
        recordings.embedded()
