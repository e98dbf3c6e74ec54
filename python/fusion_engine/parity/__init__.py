"""Parity certificates: an artifact against the PyTorch model that it was made from.

>>> from fusion_engine.parity import certify
>>> certificate = certify("cnn14_3_6.onnx")
>>> assert certificate, certificate.failures

Needs torch, which is imported at the first call: ``pip install ".[export]"``.
"""

from .certificate import Certificate, CertifiedClip, Comparison
from .certification import certify
from .signals import Signal, default_signals
from .statistics import ErrorStatistics

__all__ = [
    "Certificate",
    "CertifiedClip",
    "Comparison",
    "ErrorStatistics",
    "Signal",
    "certify",
    "default_signals",
]
