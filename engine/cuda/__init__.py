"""The GPU runner: from samples to embeddings on the device, on cuda-core and cuda-bindings."""
