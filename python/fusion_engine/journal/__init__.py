"""Embeddings by key, put on disk as they come: nothing is lost, however the program ends.

The rows of a key lie in parts, files that appear whole or not at all. Whoever opens their folder
again finds what is in them.
"""

from .events import Added, Failed, Finished
from .index import Kept
from .journal import Journal
from .part import DamagedPart

__all__ = ["Added", "DamagedPart", "Failed", "Finished", "Journal", "Kept"]
