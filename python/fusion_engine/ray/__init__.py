"""Embeddings on a Ray cluster; needs the extra ``[ray]``.

>>> from fusion_engine.ray import embed, write
>>> dataset = embed("/data/recordings", "/data/cnn14_3_6.onnx", num_gpus=0.25)
>>> write(dataset, "/data/embeddings")
Written(rows=123456, failures=[])
"""

from .dataset import embed
from .folder import Written, write

__all__ = ["Written", "embed", "write"]
