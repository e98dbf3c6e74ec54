"""Ray Data, imported where it is used."""

from typing import Any

from .._install import install
from ..errors import BackendError


def import_ray() -> Any:
    """The module ``ray``, with ``ray.data``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise BackendError(
            f"Ray Data, which embeds on a cluster, cannot be imported ({error}). "
            f"Install it: {install('ray')}"
        ) from error
    return ray
