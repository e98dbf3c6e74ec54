"""TensorRT plans: building them, and reading and checking them without a GPU."""

from .builder import build
from .checks import check_machine, preflight
from .library import Library, import_tensorrt, installed_runtimes
from .plan_cache import cached_plan
from .plan_file import PlanInfo, read_plan
from .sidecar import Sidecar, update_sidecar
from .targets import library_for

__all__ = [
    "Library",
    "PlanInfo",
    "Sidecar",
    "build",
    "cached_plan",
    "check_machine",
    "import_tensorrt",
    "installed_runtimes",
    "library_for",
    "preflight",
    "read_plan",
    "update_sidecar",
]
