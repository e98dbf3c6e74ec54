import pytest

from fusion_engine.audio import decode


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch):
    """The same answers on every machine; a test of ffmpeg says where it is."""
    monkeypatch.setattr(decode, "find_ffmpeg", lambda: None)
