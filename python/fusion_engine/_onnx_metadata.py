"""The metadata of an ONNX file, read past its weights.

``onnx.load`` holds the whole file twice, and protobuf says of memory that ran out that the file is
damaged. The wire format (https://protobuf.dev/programming-guides/encoding) lets a reader skip what
it does not want, so this takes the same memory for every file.
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

# Of onnx.proto: ModelProto.graph and .metadata_props, StringStringEntryProto.key and .value,
# GraphProto.input, ValueInfoProto.name.
_GRAPH, _METADATA = 7, 14
_KEY, _VALUE = 1, 2
_INPUT, _NAME = 11, 1
# A model has some ten fields and an entry for each function and each metadatum.
_MOST_FIELDS = 100_000
# Bytes of a name, a type and a shape.
_MOST_INPUT = 100_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class NotOnnx(Exception):
    """The bytes are not an ONNX model's; says why."""


def metadata(file: BinaryIO, key: str, *, most: int) -> list[bytes]:
    """The values of ``key`` in the metadata of the model in ``file``, which must be seekable.

    Raises:
        NotOnnx: not a model, truncated, or a value of more than ``most`` bytes.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    values, graph = list[bytes](), False
    for number, length in _fields(file, size):
        graph |= number == _GRAPH
        if number == _METADATA and length <= len(key) + most + 64:
            found = _entry(file.read(length))
            if found.get(_KEY) == key.encode():
                values.append(found.get(_VALUE, b""))
        elif number == _METADATA:
            raise NotOnnx(f"an entry of {length} bytes in its metadata")
    if not graph:
        raise NotOnnx("no graph in it" if size else "empty")
    return values


def input_names(file: BinaryIO) -> list[str]:
    """The names of the graph's inputs, of the model in ``file``, which must be seekable.

    Raises:
        NotOnnx: not a model, or truncated.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    names = list[str]()
    for number, length in _fields(file, size):
        if number == _GRAPH:
            for inner, inner_length in _fields(file, file.tell() + length):
                if inner == _INPUT and inner_length <= _MOST_INPUT:
                    name = _entry(file.read(inner_length)).get(_NAME, b"")
                    names.append(name.decode("utf-8", "replace"))
    return names


def _entry(data: bytes) -> dict[int, bytes]:
    file = io.BytesIO(data)
    return {number: file.read(length) for number, length in _fields(file, len(data))}


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Number and length of each field of bytes, from where the file is up to ``size``.

    The file is then at the field's content.
    """
    position = file.tell()
    for _ in range(_MOST_FIELDS):
        if position == size:
            return
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            length = 0
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length = _varint(file)
        else:
            raise NotOnnx(f"no field begins at byte {position}")
        start = file.tell()
        position = start + length
        if number == 0 or position > size:
            raise NotOnnx(f"a field at byte {start} ends beyond the file's {size} bytes")
        if kind == _BYTES:
            yield number, length
        file.seek(position)
    raise NotOnnx(f"more than {_MOST_FIELDS} fields")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise NotOnnx("it ends inside a field")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise NotOnnx("a number of more than 10 bytes")
