"""What ``torch.save`` wrote, zipped or not: first what it describes, then the tensors wanted of it.

Nothing is read on a file's word: sizes are compared with what is there before memory is taken.
"""

from __future__ import annotations

import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from .pickles import Storage, StoredTensor, read_pickle, shown
from .source import LARGEST_STATE, Unreadable

if TYPE_CHECKING:
    import torch

# Of the pickle alone, without the tensors' values. A sampler's state can take 40 MB.
_LARGEST_PICKLE = 64 * 2**20
# 30 000 tensors; a longer list of files is not one that is worth parsing.
_LARGEST_DIRECTORY = 4 * 2**20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ITEM_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "float32"), 4),
    **dict.fromkeys(("int64", "float64", "complex64"), 8),
    "complex128": 16,
}


class _Block(NamedTuple):
    """Where a storage's bytes are; the checksum, where one is known."""

    begin: int
    size: int
    crc: int


class TorchFile:
    """An open file of ``torch.save``.

    Attributes:
        content: what was saved; each tensor is a ``StoredTensor``.

    Raises:
        Unreadable: why it cannot be read.
        UnpicklingFailed, RefersToCode: as ``read_pickle``.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)
        zipped = file.read(4) == b"PK\x03\x04"
        self.content, self._blocks = self._read_zip() if zipped else self._read_legacy()

    def tensors(self, chosen: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
        """The tensors of ``chosen``, read; those that shared memory share it again."""
        wanted: dict[str, Storage] = {}
        total = 0
        for name, tensor in chosen.items():
            total += _check(name, tensor)
            assert tensor.storage is not None
            wanted[tensor.storage.key] = tensor.storage
        if total > LARGEST_STATE:
            raise Unreadable(
                f"its tensors take {total / 1e9:.1f} GB, more than one of these models does"
            )
        blocks = {key: self._block(storage) for key, storage in wanted.items()}
        if sum(block.size for block in blocks.values()) > self._size:
            raise Unreadable("its tensors are larger than the file")
        raw = {key: self._read(block) for key, block in blocks.items()}
        return {name: _view(raw, tensor) for name, tensor in chosen.items()}

    def _block(self, storage: Storage) -> _Block:
        block = self._blocks.get(storage.key)
        size = storage.numel * _ITEM_BYTES[storage.dtype]
        if block is None or block.size != size or block.begin + size > self._size:
            raise Unreadable("it does not hold the values of its tensors, it may be truncated")
        return block

    def _read(self, block: _Block) -> bytearray:
        raw = bytearray(block.size)
        self._file.seek(block.begin)
        if self._file.readinto(raw) != block.size:
            raise Unreadable("it is truncated")
        # Zero where it was saved without checksums.
        if block.crc and zlib.crc32(raw) != block.crc:
            raise Unreadable("it is damaged, a checksum in it is wrong")
        return raw

    def _read_zip(self) -> tuple[Any, dict[str, _Block]]:
        try:
            entries = zipfile.ZipFile(_Cautious(self._file)).infolist()
        except zipfile.BadZipFile as error:
            raise Unreadable(f"it is a damaged zip archive, perhaps truncated ({error})") from None
        names = {entry.filename: entry for entry in entries}
        if len(names) < len(entries):
            raise Unreadable("it is a zip archive with two files of one name")
        roots = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Unreadable("it is a zip archive, but not one that torch.save wrote")
        root = roots[0].removesuffix("data.pkl")
        order = names.get(f"{root}byteorder")
        if (self._read(self._entry(order, 16)) if order else b"little") != b"little":
            raise Unreadable("it was written on a big-endian machine")
        pickled = self._read(self._entry(names[roots[0]], _LARGEST_PICKLE))
        content, storages = read_pickle(BytesIO(pickled))
        data = {key: names.get(f"{root}data/{key}") for key in storages}
        return content, {
            key: self._entry(entry, LARGEST_STATE) for key, entry in data.items() if entry
        }

    def _entry(self, entry: zipfile.ZipInfo, most: int) -> _Block:
        """Where the bytes of a file in the archive are."""
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Unreadable("it is a compressed zip archive, which torch.save never writes")
        if entry.file_size > most or entry.file_size != entry.compress_size:
            raise Unreadable(f"a part of it states {entry.file_size} bytes, which cannot be")
        self._file.seek(entry.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise Unreadable("it is a damaged zip archive")
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if begin + entry.file_size > self._size:
            raise Unreadable("it is truncated")
        return _Block(begin, entry.file_size, entry.CRC)

    def _read_legacy(self) -> tuple[Any, dict[str, _Block]]:
        self._file.seek(0)
        stream = BytesIO(self._file.read(_LARGEST_PICKLE))
        magic, _ = read_pickle(stream)
        if magic != _MAGIC:
            raise Unreadable("it is a pickle, but not one that torch.save wrote")
        protocol, _ = read_pickle(stream)
        system, _ = read_pickle(stream)
        if protocol != _PROTOCOL:
            raise Unreadable("it is of an unknown version of torch.save")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Unreadable("it was written on a big-endian machine")
        content, storages = read_pickle(stream)
        keys, _ = read_pickle(stream)
        if not isinstance(keys, list) or not all(type(key) is str for key in keys):
            raise Unreadable("it does not list its tensors")
        if set(keys) != storages.keys() or len(keys) != len(storages):
            raise Unreadable("it does not list the values of its tensors")
        begin = stream.tell()
        blocks = {}
        for key in keys:
            storage = storages[key]
            self._file.seek(begin)
            if self._file.read(8) != storage.numel.to_bytes(8, "little"):
                raise Unreadable("it is truncated, or damaged")
            blocks[key] = _Block(begin + 8, storage.numel * _ITEM_BYTES[storage.dtype], 0)
            begin += 8 + blocks[key].size
            if begin > self._size:
                raise Unreadable("it is truncated")
        return content, blocks


class _Cautious:
    """A file that gives ``zipfile`` no more at once than a sound archive's directory takes."""

    def __init__(self, file: BufferedReader) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        most = _LARGEST_DIRECTORY + 1
        data = self._file.read(most if count < 0 else min(count, most))
        if len(data) == most:
            raise Unreadable("it is a zip archive with too many files")
        return data


def _check(name: str, tensor: StoredTensor) -> int:
    """The bytes that ``tensor`` takes once it is spelt out, if it lies in its storage."""
    import torch

    if tensor.storage is None:
        raise Unreadable(f"its tensor {shown(name)} is {tensor.unusable}")
    item = _ITEM_BYTES.get(tensor.dtype) or getattr(torch, tensor.dtype).itemsize
    # A storage without a type is counted in bytes, its tensors in elements.
    room = tensor.storage.numel * _ITEM_BYTES[tensor.storage.dtype] // item
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    count = math.prod(tensor.size)
    if last >= room if count else tensor.offset > room:
        raise Unreadable(f"its tensor {shown(name)} reaches beyond the values it has")
    return int(count * item)


def _view(raw: Mapping[str, bytearray], tensor: StoredTensor) -> torch.Tensor:
    import torch

    assert tensor.storage is not None
    assert sys.byteorder == "little"
    data = raw[tensor.storage.key]
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    if not math.prod(tensor.size):
        return torch.empty(tensor.size, dtype=dtype)
    count = len(data) // dtype.itemsize
    flat = torch.frombuffer(data, dtype=dtype, count=count)
    return torch.as_strided(flat, tensor.size, tensor.stride, tensor.offset)
