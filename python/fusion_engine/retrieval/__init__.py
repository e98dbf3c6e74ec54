"""The nearest rows of a table of embeddings: to a file, a part of one, a row or any vector."""

from .build import build_index
from .index import Index, IndexInfo, open_index
from .matches import Match, search
from .metrics import Metric

__all__ = [
    "Index",
    "IndexInfo",
    "Match",
    "Metric",
    "build_index",
    "open_index",
    "search",
]
