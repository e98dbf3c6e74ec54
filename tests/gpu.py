"""What the GPU of this machine can run."""

from fusion_engine.engine.devices import find_gpu
from fusion_engine.engine.tensorrt import library_for
from fusion_engine.errors import BackendError


def tensorrt_missing(runtime: str | None = None) -> str | None:
    """Why no plan can be built and run on the first GPU; ``None`` where it can.

    Args:
        runtime: the plan's library, if it has to be that one.
    """
    try:
        library_for(find_gpu(), runtime)
    except BackendError as error:
        return str(error)
    return None
