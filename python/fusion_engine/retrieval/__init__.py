"""The nearest rows of a table of embeddings: to a file, a part of one, a row or any vector."""

from .build import build_index
from .index import IndexInfo
from .matches import Match, search
from .metrics import METRICS, Metric

__all__ = ["METRICS", "IndexInfo", "Match", "Metric", "build_index", "search"]
