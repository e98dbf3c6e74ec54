"""Embeddings behind an address, on Ray Serve; needs the extra ``[serve]``.

>>> from fusion_engine.serve import application
>>> from ray import serve
>>> serve.run(application("/data/cnn14_3_6.onnx", replicas=4, threads=2))
"""

from .deployment import application
from .options import Batching, Limits

__all__ = ["Batching", "Limits", "application"]
