"""Export of backbones to ONNX artifacts: the one part of the package that uses torch.

Importing it does not import torch.
"""

from .backbones import Backbone, backbones, resolve
from .exporter import ExportReport, export
from .verify import LayerCheck

__all__ = ["Backbone", "ExportReport", "LayerCheck", "backbones", "export", "resolve"]
