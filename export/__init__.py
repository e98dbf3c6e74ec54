"""Export of backbones to ONNX artifacts: the one part of the package that uses torch.

Importing it does not import torch.
"""

from .backbones import Backbone, backbones, resolve
from .export_report import ExportReport
from .exporter import export
from .module import export_module
from .presets import PRESETS, Preset, preset
from .tapping import ModuleLayer
from .verify import LayerCheck
from .waveform import export_waveform

__all__ = [
    "PRESETS",
    "Backbone",
    "ExportReport",
    "LayerCheck",
    "ModuleLayer",
    "Preset",
    "backbones",
    "export",
    "export_module",
    "export_waveform",
    "preset",
    "resolve",
]
