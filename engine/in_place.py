"""A model for ONNX Runtime's CPU kernels that leaves its large weights in the artifact's file.

These kernels want the weights of convolutions in another order. Given a path, ONNX Runtime holds
the whole file while it reorders, and four copies of the weight it is at: four times the file at the
peak for CNN14. Here such a weight becomes external data that lies in the artifact itself, mapped
only while it is reordered, and a large convolution becomes several, each of some output channels,
whose outputs are joined: every number is still computed from the same ones, in the same order.
"""

import math
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A weight is halved while its halves keep this many bytes: smaller blocks are not given back to the
# system when they are freed (glibc maps blocks above 32 MiB one by one, whatever happens).
PART_BYTES = 33 * 2**20

# Smaller tensors stay in the model.
LEAST_BYTES = 2**16

# Channels are reordered in blocks of 8 or 16. A weight that is not would stay mapped, and a file
# that is overwritten later would change under the engine.
_BLOCK = 16

# Field numbers of onnx.proto3, and its constants.
_GRAPH, _INITIALIZER, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 8, 9, 13, 14
_FLOAT = _EXTERNAL = 1


@dataclass(frozen=True)
class InPlace:
    """Args: ``model``: serialised, its large weights external; ``folder``: where they are."""

    model: bytes
    folder: Path


def in_place(path: Path) -> InPlace | None:
    """The artifact's model with the weights of its convolutions left in the file.

    ``None`` where there is nothing to gain, or the file is not understood: opened by its path, the
    library says what is wrong with it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = path.resolve()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            skeleton, moved = _skeleton(data, path.name)
            model = onnx.load_model_from_string(skeleton)
            convolutions = _convolutions(model.graph)
            if not convolutions:
                return None
            back = set(moved) - {node.input[1] for node in convolutions}
            # What stays in the model is copied on its way: for large products a path is better.
            if 2 * sum(moved[name][1] - moved[name][0] for name in back) > len(data):
                return None
            for tensor in model.graph.initializer:
                if tensor.name in back:
                    start, end = moved[tensor.name]
                    tensor.ClearField("external_data")
                    tensor.ClearField("data_location")
                    tensor.raw_data = data[start:end]
            # The library opens the file again, by its name.
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return None
    except (OSError, ValueError, IndexError, DecodeError):
        return None
    _split(model.graph, convolutions)
    return InPlace(model.SerializeToString(), path.parent)


def _convolutions(graph: Any) -> list[Any]:
    """Nodes whose weights are external, and reordered, so that none stays mapped."""
    fed = {value.name for value in graph.input}  # what the caller may feed is no constant
    weights = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_location == _EXTERNAL
        and tensor.data_type == _FLOAT
        and tensor.name not in fed
        and len(tensor.dims) == 4
        and all(channels % _BLOCK == 0 for channels in tensor.dims[:2])
    }
    return [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and node.input[1] in weights
        and all(attribute.name != "group" or attribute.i == 1 for attribute in node.attribute)
    ]


def _split(graph: Any, convolutions: list[Any]) -> None:
    """Put several in the place of every large convolution, each of some output channels."""
    from onnx import helper

    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return  # inner graphs may use any name
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    large = {node.output[0]: _parts(tensors[node.input[1]]) for node in convolutions}
    nodes = []
    for node in list(graph.node):
        parts = large.get(node.output[0], 1)
        names = list(node.input[1:])
        if parts == 1 or not all(name in tensors and uses[name] == 1 for name in names):
            nodes.append(node)
            continue
        outputs = [f"{node.output[0]}/{part}" for part in range(parts)]
        for part, output in enumerate(outputs):
            piece = type(node)()
            piece.CopyFrom(node)
            piece.name, piece.output[0] = output, output
            for index, name in enumerate(names, 1):
                piece.input[index] = f"{name}/{part}"
                graph.initializer.append(_part(tensors[name], part, parts))
            nodes.append(piece)
        nodes.append(helper.make_node("Concat", outputs, list(node.output), node.output[0], axis=1))
        for name in names:
            graph.initializer.remove(tensors[name])
    # Copied first: clearing the field ends the life of its nodes.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)


def _parts(weight: Any) -> int:
    size, parts = 4 * math.prod(weight.dims), 1
    while size // (2 * parts) >= PART_BYTES and weight.dims[0] % (2 * parts * _BLOCK) == 0:
        parts *= 2
    return parts


def _part(tensor: Any, part: int, parts: int) -> Any:
    """One of ``parts`` slices of a float32 tensor along its first axis."""
    from onnx import numpy_helper

    piece = type(tensor)()
    if tensor.data_location != _EXTERNAL:
        rows = tensor.dims[0] // parts
        values = numpy_helper.to_array(tensor)[part * rows : (part + 1) * rows]
        piece.CopyFrom(numpy_helper.from_array(values))
    else:
        piece.CopyFrom(tensor)
        piece.dims[0] //= parts
        size = 4 * math.prod(piece.dims)
        place = {entry.key: entry.value for entry in tensor.external_data}
        place |= {"offset": str(int(place.get("offset", 0)) + part * size), "length": str(size)}
        piece.ClearField("external_data")
        for key in ("location", "offset", "length"):
            piece.external_data.add(key=key, value=place[key])
    piece.name = f"{tensor.name}/{part}"
    return piece


def _skeleton(data: mmap.mmap, location: str) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """A serialised model whose large initializers are external, in this very file.

    Also where in the file the values of each of these are. Nothing of them is read.
    """
    moved = dict[str, tuple[int, int]]()
    model = list[bytes]()
    for field, start, begin, end in _fields(data, 0, len(data)):
        if field != _GRAPH:
            model.append(data[start:end])
            continue
        graph = list[bytes]()
        for inner, inner_start, inner_begin, inner_end in _fields(data, begin, end):
            if inner != _INITIALIZER or inner_end - inner_start < LEAST_BYTES:
                graph.append(data[inner_start:inner_end])
                continue
            tensor, name, raw = list[bytes](), "", None
            for part, part_start, part_begin, part_end in _fields(data, inner_begin, inner_end):
                if part == _RAW_DATA:
                    raw = part_begin, part_end
                    continue
                if part == _NAME:
                    name = data[part_begin:part_end].decode()
                tensor.append(data[part_start:part_end])
            if raw is not None:
                moved[name] = raw
                place = {"location": location, "offset": raw[0], "length": raw[1] - raw[0]}
                for key, value in place.items():
                    entry = _message(1, key.encode()) + _message(2, str(value).encode())
                    tensor.append(_message(_EXTERNAL_DATA, entry))
                tensor.append(_varint(_DATA_LOCATION << 3) + _varint(_EXTERNAL))
            graph.append(_message(_INITIALIZER, b"".join(tensor)))
        model.append(_message(_GRAPH, b"".join(graph)))
    return b"".join(model), moved


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a protobuf message: number, where the field, and where its content begins and ends.

    Raises:
        ValueError, IndexError: this is no such message.
    """
    while start < end:
        key, begin = _read_varint(data, start)
        kind = key & 7
        if kind == 2:  # a length, and that many bytes
            length, begin = _read_varint(data, begin)
            stop = begin + length
        elif kind == 0:
            stop = _read_varint(data, begin)[1]
        elif kind in (1, 5):
            stop = begin + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("cut off")
        yield key >> 3, start, begin, stop
        start = stop


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
