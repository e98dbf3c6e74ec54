"""What a file is that is no audio, as far as its first bytes say."""

_KNOWN = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"%PDF-": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": "a Parquet table",
}
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"
_SHOWN = 40
# What is left of a truncated audio file may be these letters alone.
_LETTERS = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"riff",
    b"FORM",
    b"OggS",
    b"fLaC",
    b"caff",
    b".snd",
    b"NIST",
)


def nonaudio_kind(head: bytes) -> str | None:
    """A phrase for it, or None where the bytes may be audio.

    Args:
        head: the first kilobyte or so of a file.
    """
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, not audio; fetch the file with `git lfs pull`"
    for magic, name in _KNOWN.items():
        if head.startswith(magic):
            return f"{name}, not audio"
    if any(letters.startswith(head[:4]) for letters in _LETTERS):
        return None
    text = _text(head)
    if text is None:
        return None
    line = " ".join(text.split())
    begins = line[:_SHOWN] + ("…" if len(line) > _SHOWN else "")
    return f"text (it begins with {begins!r}), not audio; fetch or record it again"


def _text(head: bytes) -> str | None:
    if head.translate(None, _CONTROL) != head:
        return None
    # A character may be cut at the end.
    for end in range(len(head), max(0, len(head) - 4), -1):
        try:
            return head[:end].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    return None
