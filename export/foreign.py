"""The boundary to the caller's module and to torch: whatever they raise becomes an ExportError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ExportError, FusionEngineError

# What a message tells of the way out, the most telling first.
_ADVICE = (
    (
        ("scaled_dot_product", "sdpa", "flash_attention", "flex_attention"),
        "An attention is written in a way that torch cannot export; for a model of transformers, "
        'load it with attn_implementation="eager"',
    ),
    (
        ("expected scalar type", "same dtype", "must have the same dtype", "mat1 and mat2 must"),
        "It mixes types: something in it is neither a parameter, a buffer nor a plain attribute",
    ),
)


@contextmanager
def foreign(what: str, advice: str = "") -> Iterator[None]:
    """Turn what the block raises into an ``ExportError``: ``what: cause. advice``.

    The errors of this package pass as they are.
    """
    try:
        yield
    except FusionEngineError:
        raise
    except Exception as error:  # whatever the module, torch or onnxscript raise
        text = " ".join(str(found) for found in _chain(error)).lower()
        known = next((way for signs, way in _ADVICE if any(s in text for s in signs)), advice)
        raise ExportError(f"{what}: {cause_of(error)}" + (f". {known}" if known else "")) from error


def cause_of(error: BaseException) -> str:
    """The first line of what lies at the root of ``error``, with its class."""
    root = _chain(error)[-1]
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    text = lines[0][:300].rstrip(".:") if lines else ""
    kind = type(root).__name__
    return f"{text} ({kind})" if text else kind


def _chain(error: BaseException) -> list[BaseException]:
    """``error`` and what it was raised from."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain
