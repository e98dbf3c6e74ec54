"""The boundary to the caller's module and to torch: whatever they raise becomes an ExportError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ExportError, FusionEngineError


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
        rest = f". {advice}" if advice else ""
        raise ExportError(f"{what}: {cause_of(error)}{rest}") from error


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
