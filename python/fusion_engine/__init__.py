"""General-purpose audio embeddings from fused layers of pre-trained models.

>>> import fusion_engine as fe
>>> engine = fe.Engine("cnn14_3_6.onnx")
>>> engine.embed(samples).shape
(6144,)

``fusion_engine.export`` is the subpackage that writes artifacts: ``from fusion_engine.export import
export``.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    ArtifactError,
    AudioError,
    BackendError,
    DatasetError,
    ExportError,
    FusionEngineError,
    NumericalError,
    WeightsError,
)

if TYPE_CHECKING:
    from .engine import Engine
    from .engine.cuda.arrays import DeviceArray
    from .engine.tensorrt import build
    from .frontend import FrontendSpec
    from .quantization import quantize
    from .retrieval import Match, search
    from .spec import Spec

__all__ = [
    "ArtifactError",
    "AudioError",
    "BackendError",
    "DatasetError",
    "DeviceArray",
    "Engine",
    "ExportError",
    "FrontendSpec",
    "FusionEngineError",
    "Match",
    "NumericalError",
    "Spec",
    "WeightsError",
    "__version__",
    "build",
    "quantize",
    "search",
]

# Resolved at first use, so that `import fusion_engine` costs nothing that is not needed.
_LAZY = {
    "DeviceArray": ".engine.cuda.arrays",
    "Engine": ".engine",
    "FrontendSpec": ".frontend",
    "Match": ".retrieval",
    "Spec": ".spec",
    "build": ".engine.tensorrt",
    "quantize": ".quantization",
    "search": ".retrieval",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
