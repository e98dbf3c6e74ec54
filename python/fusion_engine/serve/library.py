"""Ray Serve, imported where it is used."""

from typing import Any

from .._install import install
from ..errors import BackendError


def import_serve() -> tuple[Any, Any]:
    """The modules ``ray`` and ``ray.serve``.

    Raises:
        BackendError: Ray Serve, or what the service needs besides, is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import ray
        from ray import serve
    except ImportError as error:
        raise BackendError(
            f"Ray Serve, which answers requests, cannot be imported ({error}). "
            f"Install it: {install('serve')}"
        ) from error
    return ray, serve
