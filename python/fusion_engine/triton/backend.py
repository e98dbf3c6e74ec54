"""The model of Triton's Python backend: requests in, embeddings out, through one ``Engine``.

What `model.py` of a repository imports. ``triton_python_backend_utils`` is Triton's own module,
which exists in its process alone.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import Engine
from ..errors import AudioError, FusionEngineError


class TritonPythonModel:
    """Embeds ``samples`` [b, N] of each request into ``embedding`` [b, D], FP32 both.

    Samples in GPU memory are read there, and their embeddings stay there.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact on this instance's GPU, or on the CPU.

        Raises:
            FusionEngineError: as ``Engine``.
        """
        self._utils = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        artifact = config["parameters"]["artifact"]["string_value"]
        folder = Path(args["model_repository"]) / args["model_version"]
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self._engine = Engine(folder / artifact, device=device)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """The response to each request: its embeddings, or what is wrong with it."""
        samples = [self._utils.get_input_tensor_by_name(r, "samples") for r in requests]
        responses: dict[int, Any] = {}
        on_host = {}
        for index, tensor in enumerate(samples):
            if tensor.is_cpu():
                on_host[index] = tensor.as_numpy()
            else:
                responses[index] = self._answer(tensor)
        try:
            responses |= self._together(on_host)
        except FusionEngineError:
            # One of them is at fault, and the others are not.
            responses |= {index: self._answer(clips) for index, clips in on_host.items()}
        return [responses[index] for index in range(len(requests))]

    def finalize(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _together(self, requests: dict[int, Any]) -> dict[int, Any]:
        """Responses to all requests by one call; clips of equal length go through in one run."""
        clips = [clip for batch in requests.values() for clip in batch]
        if not clips:
            return {}
        embeddings = self._engine.embed(clips)
        ends = np.cumsum([len(batch) for batch in requests.values()])
        parts = np.split(embeddings, ends[:-1])
        return {index: self._response(part) for index, part in zip(requests, parts, strict=True)}

    def _answer(self, samples: Any) -> Any:
        """The response to one request, of an array on the host or a tensor of the backend's."""
        utils = self._utils
        try:
            if isinstance(samples, np.ndarray):
                return self._response(self._engine.embed(list(samples)))
            embedding = self._engine.embed(samples)
            return utils.InferenceResponse([utils.Tensor.from_dlpack("embedding", embedding)])
        except FusionEngineError as error:
            codes = utils.TritonError
            code = codes.INVALID_ARG if isinstance(error, AudioError) else codes.INTERNAL
            return utils.InferenceResponse(error=utils.TritonError(str(error), code))

    def _response(self, embeddings: Any) -> Any:
        tensor = self._utils.Tensor("embedding", np.ascontiguousarray(embeddings))
        return self._utils.InferenceResponse([tensor])
