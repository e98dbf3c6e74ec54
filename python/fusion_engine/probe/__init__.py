"""Linear evaluation of embeddings: which layers, and which artifacts, serve which tasks."""
