"""What an engine was asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from ..frontend import FrontendSpec
from ..spec import Spec


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``Engine`` was asked for, see there.

    Args:
        spinning: CPU: idle threads wait busily for the next piece of work.
        frontend: settings of the frontend for the artifact's spec.
    """

    device: str
    backend: str | None
    contexts: int
    threads: int
    spinning: bool
    memory_limit: int | None
    frontend: Callable[[Spec], FrontendSpec]
