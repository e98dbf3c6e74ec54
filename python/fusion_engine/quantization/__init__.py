"""Artifacts in 8 bits, and what they lose."""

from .quantizer import QuantizationReport, quantize

__all__ = ["QuantizationReport", "quantize"]
