"""A double of ``triton_python_backend_utils``, the module of Triton's Python backend.

As https://github.com/triton-inference-server/python_backend describes it: tensors on
the host or in GPU memory (DLPack), requests, responses, errors with a code.
"""

from typing import Any

import numpy as np


class TritonError:
    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"incompatible constructor arguments: {type(array)}")
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> "Tensor":
        tensor = cls(name, np.empty(0))
        tensor._array = array
        return tensor

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return isinstance(self._array, np.ndarray)

    def as_numpy(self) -> Any:
        assert self.is_cpu(), "Tensor is stored in GPU and cannot be converted to NumPy."
        return self._array

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self._array.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class InferenceRequest:
    def __init__(self, **tensors: Any) -> None:
        self._tensors = {name: Tensor.from_dlpack(name, array) for name, array in tensors.items()}


class InferenceResponse:
    def __init__(self, output_tensors: Any = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def error(self) -> TritonError | None:
        return self._error

    def has_error(self) -> bool:
        return self._error is not None


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return request._tensors.get(name)
