"""JSON that others wrote, read strictly into dataclasses: bounded time, memory and messages."""

import hashlib
import json
import math
import reprlib
import types
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import ArtifactError

# Beyond it not every reader of JSON has the same number.
_MAX_INT = 2**53

_T = TypeVar("_T")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def short(value: Any) -> str:
    """``repr(value)``, cut to what a message can hold, however large or deep it is."""
    return _SHORT.repr(value)


def parse(text: str, *, most: int) -> Any:
    """JSON of at most ``most`` characters; NaN, infinities and a name given twice are refused.

    Raises:
        ValueError: anything else.
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} characters, expected at most {most}")
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def seal(value: Any) -> str:
    """``value`` as JSON, after a line with its SHA-256."""
    text = json.dumps(value)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def unseal(sealed: str) -> Any:
    """What ``seal`` was given.

    Raises:
        ValueError: the text is not what it gave.
    """
    checksum, _, text = sealed.partition("\n")
    if checksum != hashlib.sha256(text.encode()).hexdigest():
        raise ValueError("its checksum is another one")
    return json.loads(text)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {short(text)} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{short(twice)} is there twice")
    return found


def decode(hint: type[_T] | Any, value: Any, where: str) -> Any:
    """JSON's ``value`` as the type ``hint``, strictly; ``where`` names it in errors.

    Takes dataclasses, tuples of one type, literals, optional types, plain types and ``dict``, whose
    items are not looked at.

    Raises:
        ArtifactError: something is missing, unknown or of another type.
    """
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ArtifactError(f"{where} is {short(value)}, expected an object")
        names = [field.name for field in fields(hint)]
        missing = [name for name in names if name not in value]
        unknown = [name for name in value if name not in names]
        if missing or unknown:
            raise ArtifactError(
                f"{where} lacks {short(missing)} and has unknown fields {short(unknown)}"
            )
        hints = get_type_hints(hint)
        return hint(**{n: decode(hints[n], value[n], f"{where}.{n}") for n in names})
    if origin is tuple:
        if not isinstance(value, list):
            raise ArtifactError(f"{where} is {short(value)}, expected a list")
        item = get_args(hint)[0]
        return tuple(decode(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ArtifactError(f"{where} is {short(value)}, expected an object")
        return value
    if origin is Literal:
        if value not in get_args(hint):
            raise ArtifactError(
                f"{where} is {short(value)}, expected one of {list(get_args(hint))}"
            )
        return value
    if origin is types.UnionType or type(None) in get_args(hint):
        if value is None:
            return None
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
        return decode(hint, value, where)
    if type(value) is int and abs(value) > _MAX_INT:
        raise ArtifactError(f"{where} is {short(value)}, expected at most 2^53")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ArtifactError(f"{where} is {short(value)}, expected {hint.__name__}")
    return value
