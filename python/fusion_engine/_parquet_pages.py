"""Values of a Parquet column where they lie: pages that are neither compressed nor encoded.

pyarrow takes a list apart level by level, at a tenth of the speed. Of a list whose values are all
there the levels say nothing, and its values are the end of each page.

Format: https://parquet.apache.org/docs/file-format/
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DATA_PAGE, _DATA_PAGE_V2 = 0, 3
_PLAIN = 0
# Of structs in structs; a page's header has three.
_DEEPEST = 8


def is_plain(chunk: Any) -> bool:
    """Whether ``plain_pages`` reads a ``pyarrow.parquet.ColumnChunkMetaData``."""
    return (
        chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and set(chunk.encodings) <= {"PLAIN", "RLE"}
    )


@dataclass(frozen=True, slots=True)
class Page:
    """A page of values.

    Attributes:
        count: of the values.
        checksum: CRC-32 of the page, as its header has it; ``None``: it has none.
    """

    count: int
    checksum: int | None
    _data: mmap
    _start: int
    _size: int
    _levels: int

    def values(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """[count]; a view of the file.

        Raises:
            ValueError: its checksum is another one, or a value is missing.
        """
        if self._levels + self.count * dtype.itemsize != self._size:
            raise ValueError("a page holds nulls, or its size is wrong")
        if self.checksum is not None:
            body = memoryview(self._data)[self._start : self._start + self._size]
            if zlib.crc32(body) != self.checksum:
                raise ValueError("a page's checksum is another one")
        return np.frombuffer(self._data, dtype, self.count, self._start + self._levels)


def plain_pages(data: mmap, chunk: Any) -> Iterator[Page]:
    """The pages of a column of lists in one row group, in order.

    Args:
        data: the file.
        chunk: its ``pyarrow.parquet.ColumnChunkMetaData``, which ``is_plain``.

    Raises:
        ValueError: the file is damaged.
    """
    at, left = chunk.data_page_offset, chunk.num_values
    try:
        while left > 0:
            header, at = _struct(data, at)
            page = _page(data, at, header)
            left -= page.count
            at += header[3]
            yield page
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"a page's header is damaged ({error})") from error
    if left:
        raise ValueError(f"its pages hold {-left} values too many")


def _page(data: mmap, start: int, header: dict[int, Any]) -> Page:
    kind, size, crc = header[1], header[3], header.get(4)
    if size < 0 or start + size > len(data):
        raise ValueError("a page ends beyond the file")
    if kind == _DATA_PAGE:
        count, encoding, levels = header[5][1], header[5][2], 0
        for _ in ("repetition", "definition"):
            levels += 4 + int.from_bytes(data[start + levels : start + levels + 4], "little")
    elif kind == _DATA_PAGE_V2:
        count, encoding, levels = header[8][1], header[8][4], header[8][5] + header[8][6]
    else:
        raise ValueError(f"a page is of kind {kind}, expected data")
    if encoding != _PLAIN or count < 1:
        raise ValueError(f"a page has {count} values in encoding {encoding}, expected plain ones")
    return Page(count, None if crc is None else crc & 0xFFFFFFFF, data, start, size, levels)


def _struct(data: mmap, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol, its fields by number, and where it ends."""
    if depth > _DEEPEST:
        raise ValueError("a page's header is nested too deep")
    fields, number = dict[int, Any](), 0
    while kind := data[at]:
        at += 1
        delta, kind = kind >> 4, kind & 15
        if delta:
            number += delta
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == 1, at
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            return _integer(data, at)
        case 7:
            return None, at + 8
        case 8:
            length, at = _varint(data, at)
            return None, at + length
        case 12:
            return _struct(data, at, depth + 1)
    raise ValueError(f"a page's header has a field of type {kind}")  # a list or a map: none has one


def _integer(data: mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a page's header has a number without end")
