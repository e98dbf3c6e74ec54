"""DLPack capsules: exchange of device arrays with other libraries, without a copy.

https://dmlc.github.io/dlpack/latest/python_spec.html. Capsules are made and read in the form that
every consumer knows, ``dltensor``.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

CPU, CUDA = 1, 2
_CODES = {0: "i", 1: "u", 2: "f"}
_NAME, _USED_NAME = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (
    ("tensor", _Tensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
)

# Prototypes of our own: those of ``ctypes.pythonapi`` are shared with every other user.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)


@dataclass(frozen=True)
class _Exporter:
    """What a NumPy array is made of, and keeps."""

    __array_interface__: dict[str, Any]
    owner: Any


def export(address: int, shape: tuple[int, ...], device: tuple[int, int], owner: Any) -> Any:
    """A capsule of C-contiguous float32; ``owner`` lives until the consumer is done with it."""
    face = {"version": 3, "typestr": "<f4", "shape": shape, "data": (address, False)}
    # NumPy never reads the memory. Its deleter and destructor are native code, which works where a
    # Python function would not: while an error is raised, and at the end of the process.
    capsule = np.asarray(_Exporter(face, owner)).__dlpack__()
    managed = ctypes.cast(_pointer(id(capsule), _NAME), ctypes.POINTER(_Managed))
    managed.contents.tensor.device = _Device(*device)
    return capsule


@dataclass(frozen=True)
class Imported:
    """Another library's array: strides count elements, ``owner`` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: Any


class _Taken:
    """A capsule that was consumed: its tensor is deleted with this object."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def take(capsule: Any) -> Imported:
    """Consume a capsule.

    Raises:
        BufferError: no DLPack capsule, or one that was consumed.
        TypeError: elements that NumPy has no type for.
    """
    handle = id(capsule)
    if not _is_valid(handle, _NAME):
        raise BufferError("got no DLPack capsule, or one that was used before")
    managed = ctypes.cast(_pointer(handle, _NAME), ctypes.POINTER(_Managed))
    _rename(handle, _USED_NAME)
    owner = _Taken(managed)
    tensor = managed.contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
    else:
        strides = contiguous_strides(shape)
    return Imported(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=strides,
        dtype=_dtype(tensor.dtype),
        device=tensor.device.index,
        owner=owner,
    )


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _dtype(kind: _Type) -> np.dtype[Any]:
    if kind.code not in _CODES or kind.lanes != 1:
        raise TypeError(f"elements of DLPack's type code {kind.code} with {kind.bits} bits")
    name: DTypeLike = f"{_CODES[kind.code]}{kind.bits // 8}"
    return np.dtype(name)
