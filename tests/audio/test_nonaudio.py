import pytest

from fusion_engine import AudioError
from fusion_engine.audio import load

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is a Git LFS pointer, not audio; fetch the file with `git lfs pull`"),
        (b"<!DOCTYPE html>\n<html><body>404</body>", r"is text \(it begins with '<!DOCTYPE html>"),
        (b'{"error": "Not found", "code": 404}', "is text .*not audio"),
        ("<p>Größe über alles, très bien</p>".encode() * 40, "is text"),
        (b"PK\x03\x04" + bytes(100), "is a ZIP archive, not audio"),
        (b"%PDF-1.7\n" + bytes(100), "is a PDF document"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "is a JPEG image"),
        (b"\x7fELF" + bytes(100), "is a program"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path, content, said):
    (tmp_path / "clip.wav").write_bytes(content)
    with pytest.raises(AudioError, match=rf"clip\.wav: {said}") as caught:
        load(tmp_path / "clip.wav", 16_000)
    assert "ffmpeg" not in str(caught.value)
