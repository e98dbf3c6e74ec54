"""The pickles in PyTorch's files, read by an interpreter of its own that calls nothing they name.

``torch.load(weights_only=True)`` calls a list of functions with whatever a file gives them; here
the names on that list stand for plain records, and every other name ends the reading.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any, Final

# A state dict of a thousand tensors takes 50 000; two million take three seconds.
_MOST_OPERATIONS = 2_000_000
_MOST_DIMENSIONS = 16
_LARGEST = 2**48


class UnpicklingFailed(Exception):
    """A pickle that is damaged, too large, or not of a kind that is read."""


class RefersToCode(UnpicklingFailed):
    """A pickle names something that is neither a tensor, a NumPy array nor a plain container."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers: its key in the file, the name of its dtype, its length in elements."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that was not read yet; ``unusable``: what kind it is, if it is not a plain one."""

    storage: Storage | None
    dtype: str = ""
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    unusable: str | None = None


class _Inert:
    """What may lie beside the weights, and is not looked at."""


INERT: Final = _Inert()


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "DoubleStorage": "float64",
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
        "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
        "UntypedStorage": "uint8",
        "QInt8Storage": "int8",
        "QUInt8Storage": "uint8",
        "QInt32Storage": "int32",
        "QUInt4x2Storage": "uint8",
        "QUInt2x4Storage": "uint8",
    }
)
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_QUANTISED = (
    *("qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
    *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
    "per_channel_affine_float_qparams",
)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise UnpicklingFailed("a tensor's shape is not made of whole numbers")
    return value


def _wholes(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > _MOST_DIMENSIONS:
        raise UnpicklingFailed("a tensor's shape is not a short tuple")
    return tuple(_whole(value) for value in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise UnpicklingFailed("a tensor has no storage")
    sizes, strides, begin = _wholes(size), _wholes(stride), _whole(offset)
    if len(sizes) != len(strides):
        raise UnpicklingFailed("a tensor has more sizes than strides, or fewer")
    return StoredTensor(storage, dtype or storage.dtype, begin, sizes, strides)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> StoredTensor:
    return _tensor(storage, offset, size, stride, None)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> StoredTensor:
    if metadata:
        return StoredTensor(None, unusable="conjugated or negated")
    return _tensor(storage, offset, size, stride, None)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> StoredTensor:
    if not isinstance(dtype, _Global) or dtype.name.removeprefix("torch.") not in _DTYPES:
        raise UnpicklingFailed("a tensor's dtype is not one")
    if metadata:
        return StoredTensor(None, unusable="conjugated or negated")
    return _tensor(storage, offset, size, stride, dtype.name.removeprefix("torch."))


def _parameter(data: Any, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise UnpicklingFailed("a parameter is no tensor")
    return data


def _unusable(kind: str) -> Callable[..., StoredTensor]:
    return lambda *_: StoredTensor(None, unusable=kind)


_REBUILD: Mapping[str, Callable[..., StoredTensor]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _unusable("quantised"),
    "torch._utils._rebuild_sparse_tensor": _unusable("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unusable("without data (meta)"),
    "torch._utils._rebuild_nested_tensor": _unusable("nested"),
    "torch._utils._rebuild_wrapper_subclass": _unusable("of a class of its own"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unusable("of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _unusable("of another device"),
}


def _from_type(function: Any, kind: Any, args: Any, _state: Any) -> StoredTensor:
    rebuild = _REBUILD.get(function.name) if isinstance(function, _Global) else None
    if rebuild is None or type(args) is not tuple:
        raise UnpicklingFailed("a tensor is built in an unknown way")
    return rebuild(*args)


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _inert(*_: Any) -> _Inert:
    return INERT


_CALLS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **_REBUILD,
        "torch._tensor._rebuild_from_type_v2": _from_type,
        "collections.OrderedDict": _ordered_dict,
        **dict.fromkeys(
            (
                # Published PANNs checkpoints carry the data sampler's arrays beside the weights.
                "numpy.core.multiarray._reconstruct",
                "numpy.core.multiarray.scalar",
                "numpy._core.multiarray._reconstruct",
                "numpy._core.multiarray.scalar",
                "numpy.dtype",
                "_codecs.encode",
                "builtins.set",
                "builtins.bytearray",
                "builtins.complex",
                "collections.Counter",
                "torch.Size",
                "torch.device",
                "torch.serialization._get_layout",
            ),
            _inert,
        ),
    }
)
# Named as an argument, never called.
_NAMED = frozenset(
    {
        "numpy.ndarray",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.storage.UntypedStorage",
        *(f"torch.{name}" for name in (*STORAGES, *_DTYPES, *_QUANTISED)),
    }
)
_MARK: Final = object()
_LARGEST_KEY = 2**31


class _Machine:
    """One pickle's stack and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def name(self, module: Any, name: Any) -> None:
        module = {"__builtin__": "builtins"}.get(module, module)
        full = f"{module}.{name}"
        if full not in _CALLS and full not in _NAMED:
            raise RefersToCode(shown(full))
        self.stack.append(_Global(full))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnpicklingFailed("a name is no text")
        self.name(module, name)

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        call = _CALLS.get(function.name) if isinstance(function, _Global) else None
        if call is None or type(args) is not tuple:
            raise UnpicklingFailed("something that is no function is called")
        self.stack.append(call(*args))

    def build(self, _: Any) -> None:
        self.stack.pop()  # attributes of containers and the bytes of arrays: not needed
        if self.stack[-1] is not INERT and type(self.stack[-1]) is not dict:
            raise UnpicklingFailed("an object of an unknown kind is built")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif target is not INERT:
            raise UnpicklingFailed("something that is no list is extended")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if target is INERT:
            return
        if type(target) is not dict or len(items) % 2:
            raise UnpicklingFailed("something that is no dictionary is filled")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                continue
            if key in target:
                raise UnpicklingFailed(f"the key {shown(str(key)[:200])} is there twice")
            target[key] = value

    def storage(self, _: Any) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or any(pid[5:]):
            raise UnpicklingFailed("it refers to something that is no storage")
        _, kind, key, _location, numel = pid[:5]
        dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, _Global) else None
        if dtype is None or type(key) is not str:
            raise UnpicklingFailed("a storage is of an unknown kind")
        storage = Storage(key, dtype, _whole(numel))
        if self.storages.setdefault(key, storage) != storage:
            raise UnpicklingFailed("a storage is described twice, and differently")
        self.stack.append(storage)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise UnpicklingFailed("its stack is empty")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def pair(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]


def _is_key(key: Any) -> bool:
    """Whether hashing ``key`` is safe: a deep tuple's has no end, and large numbers collide."""
    if type(key) is int:
        return -_LARGEST_KEY <= key < _LARGEST_KEY
    return key is None or type(key) in (str, bool)


def shown(name: str) -> str:
    """A name from a file as a message can hold it: short, and in printable ASCII."""
    short = name if len(name) <= 100 else f"{name[:100]}…"
    return short if short.isascii() and short.isprintable() else ascii(short)


def _handlers(machine: _Machine) -> Mapping[str, Callable[[Any], None]]:
    push = machine.stack.append
    literals = (
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        *("SHORT_BINSTRING",),
    )

    def memoize(_: Any) -> None:
        machine.memo[len(machine.memo)] = machine.stack[-1]

    def put(index: int) -> None:
        machine.memo[index] = machine.stack[-1]

    return {
        **dict.fromkeys(literals, push),
        **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), lambda _: push(INERT)),
        **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), put),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda index: push(machine.memo[index])),
        "NONE": lambda _: push(None),
        "NEWTRUE": lambda _: push(True),
        "NEWFALSE": lambda _: push(False),
        "EMPTY_TUPLE": lambda _: push(()),
        "EMPTY_LIST": lambda _: push([]),
        "EMPTY_DICT": lambda _: push({}),
        "EMPTY_SET": lambda _: push(INERT),
        "ADDITEMS": lambda _: machine.extend(machine.marked()),
        "MARK": lambda _: push(_MARK),
        "TUPLE": lambda _: push(tuple(machine.marked())),
        "TUPLE1": lambda _: machine.tuple_of(1),
        "TUPLE2": lambda _: machine.tuple_of(2),
        "TUPLE3": lambda _: machine.tuple_of(3),
        "APPEND": lambda _: machine.extend([machine.stack.pop()]),
        "APPENDS": lambda _: machine.extend(machine.marked()),
        "SETITEM": lambda _: machine.update(machine.pair()),
        "SETITEMS": lambda _: machine.update(machine.marked()),
        "GLOBAL": lambda arg: machine.name(*arg.split(" ", 1)),
        "STACK_GLOBAL": machine.stack_global,
        "REDUCE": machine.reduce,
        "BUILD": machine.build,
        "BINPERSID": machine.storage,
        "MEMOIZE": memoize,
    }


def read_pickle(stream: BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The object of the pickle at the stream's position, and the storages that it refers to by key.

    Returns:
        Containers, numbers, text, ``StoredTensor`` and ``INERT``.

    Raises:
        UnpicklingFailed: damaged, too long, of an unknown kind.
        RefersToCode: its message is the name.
    """
    machine = _Machine()
    handlers = _handlers(machine)
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if opcode.name == "STOP":
            return machine.stack.pop(), machine.storages
        handler = handlers.get(opcode.name)
        if handler is None:
            raise UnpicklingFailed(f"its pickle has the operation {opcode.name}, which is not read")
        if count > _MOST_OPERATIONS:
            raise UnpicklingFailed(f"its pickle has more than {_MOST_OPERATIONS} operations")
        handler(arg)
    raise UnpicklingFailed("its pickle has no end")
