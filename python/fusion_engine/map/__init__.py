"""A map of a table's embeddings: a page to explore, or a picture for a paper."""

from .draw import Map, draw_map

__all__ = ["Map", "draw_map"]
