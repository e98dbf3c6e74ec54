"""TensorRT plans: building them, and reading and checking them without a GPU."""
