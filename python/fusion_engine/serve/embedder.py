"""What a replica does: the body of a request in, the body of its answer out."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.cut import frames_of
from ..errors import AudioError, FusionEngineError, NumericalError
from ..named import named_artifact
from .batcher import Batcher
from .decoder import Decoder
from .options import Batching, Limits
from .reply import Reply, RequestError, of_engine
from .request import Asked, Encoding, parse

Embedding = NDArray[np.float32]
# Runs of a GPU at once, as many as an engine has contexts.
_ON_GPU = 2


class Embedder:
    """An engine and what is before and behind it. It knows nothing of Ray.

    Args:
        artifact: a path on this node, or a name.
        model: what requests call it.
        device: as for ``Engine``.
        threads: CPU threads of a run, and recordings that are decoded at once.
        limits: of a request.
        batching: of clips.

    Raises:
        ArtifactError, BackendError: as ``Engine``.
    """

    def __init__(
        self,
        artifact: str,
        model: str,
        *,
        device: str,
        threads: int,
        limits: Limits,
        batching: Batching,
    ) -> None:
        from ..engine import Engine

        self._engine = Engine(named_artifact(artifact), device=device, threads=threads)
        self._engine.embed([])  # its process has what the first request needs
        self._model, self._limits = model, limits
        spec = self._engine.spec
        self._decoder = Decoder(self._engine.sample_rate, limits.decode_seconds, threads)
        self._batcher = Batcher(
            self._run,
            lambda samples: frames_of(spec, len(samples)),
            batching,
            1 if self._engine.device == "cpu" else _ON_GPU,
        )

    async def answer(self, content_type: str, body: bytes) -> Reply:
        """The answer to a request, also where it is an error.

        Args:
            content_type: of the body.
            body: all of it.
        """
        try:
            return await self._answer(content_type, body)
        except RequestError as error:
            return error.reply()
        except (FusionEngineError, MemoryError) as error:
            return of_engine(error).reply()

    async def _answer(self, content_type: str, body: bytes) -> Reply:
        asked = await parse(content_type, body, self._model, self._limits)
        tasks = [asyncio.create_task(self._embed(*one)) for one in self._inputs(asked)]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        embeddings = [embedding for embedding, _, _ in results]
        seconds = sum(samples for _, samples, _ in results) / self._engine.sample_rate
        text = await asyncio.to_thread(
            response_body, embeddings, asked.encoding, self._model, seconds
        )
        batches = [batch for _, _, batch in results if batch]
        return Reply(200, text, audio_seconds=seconds, batches=batches)

    def _inputs(self, asked: Asked) -> "list[tuple[bytes, str, _Budget]]":
        budget = _Budget(self._limits.audio_seconds)
        return [(data, name, budget) for data, name in zip(asked.inputs, asked.names, strict=True)]

    async def _embed(self, data: bytes, name: str, budget: "_Budget") -> tuple[Embedding, int, int]:
        """The embedding, how many samples it is of, and see ``Batched``."""
        samples = await self._decoder.decode(data, max(0.0, budget.seconds), name)
        budget.take(len(samples) / self._engine.sample_rate, name)
        result, batch = await self._batcher.submit(samples)
        if isinstance(result, FusionEngineError):
            raise of_engine(result, name)
        return result, len(samples), batch

    def _run(self, clips: Sequence[NDArray[np.float32]]) -> Sequence[Any]:
        """The embedding of each clip, or the reason why it has none."""
        try:
            return list(self._engine.embed(clips))
        except (AudioError, NumericalError):
            # Of one clip: the others have an embedding all the same.
            return [found.result for found in self._engine.embed_stream(enumerate(clips))]


class _Budget:
    """Seconds of audio that are left of a request's."""

    def __init__(self, seconds: float) -> None:
        self._most = self.seconds = seconds

    def take(self, seconds: float, name: str) -> None:
        self.seconds -= seconds
        if self.seconds < 0:
            raise RequestError(
                413,
                "audio_too_long",
                f"{name}: with it the request has more than {self._most:g} s of audio; send "
                "several requests",
                name,
            )


def response_body(
    embeddings: Sequence[Embedding], encoding: Encoding, model: str, seconds: float
) -> bytes:
    """JSON in the shape of OpenAI's embeddings.

    Args:
        embeddings: [D] each. As numbers they have the digits that give the same float32 again, as
            base64 they are the bytes of little-endian float32.
        encoding: ``float`` or ``base64``.
        model: its name.
        seconds: of audio in the request.
    """
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": embedding.tolist()
            if encoding == "float"
            else base64.b64encode(embedding.astype("<f4").tobytes()).decode(),
        }
        for index, embedding in enumerate(embeddings)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0, "audio_seconds": round(seconds, 3)}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()
