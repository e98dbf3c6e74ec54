"""What an engine was asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from ..frontend import FrontendSpec
from ..spec import Spec


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``Engine`` was asked for, see there.

    Args:
        frontend: settings of the frontend for the artifact's spec.
    """

    device: str
    backend: str | None
    contexts: int
    threads: int
    memory_limit: int | None
    frontend: Callable[[Spec], FrontendSpec]
