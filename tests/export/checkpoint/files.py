"""Checkpoint files as others write them, and as nobody should."""

import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


class RunsCode:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def zipped(
    path: Path,
    pickled: bytes,
    storages: Mapping[str, bytes],
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """A file as ``torch.save`` lays it out, around a pickle of one's own."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in (extra or {}).items():
            archive.writestr(name, raw)
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def row(*values: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(values) + b"t"


def called(module: str, name: str, *args: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + row(*args) + b"R"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    kind_of = f"ctorch\n{kind}\n".encode()
    return row(text("storage"), kind_of, text(key), text("cpu"), number(numel)) + b"Q"


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, **block: Any
) -> bytes:
    """``torch._utils._rebuild_tensor_v2`` of a storage, as a pickle."""
    shape, steps = row(*map(number, size)), row(*map(number, stride))
    rest = (b"\x89", called("collections", "OrderedDict"))
    function = "_rebuild_tensor_v2"
    return called("torch._utils", function, storage(**block), number(offset), shape, steps, *rest)


def saved(**entries: bytes) -> bytes:
    """The pickle of a dictionary."""
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"\x80\x02}(" + items + b"u."
