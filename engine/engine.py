"""The engine: frontend, backbone and layer fusion in one call, for any number of clips."""

import math
import os
import weakref
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from .._cpus import usable_cpus
from .._forking import never_free, watch_forks
from ..audio import Channel
from ..errors import ArtifactError, BackendError
from ..named import named_artifact
from ..spec import HEADS, Head, Spec
from .background import Background
from .clips import Embedded, End, read_clip
from .cuda.arrays import DeviceArray, OnDevice, is_on_gpu
from .cut import Run
from .dispatch import Dispatcher, Events
from .open import Options, open_runner
from .recording import Clip, Item
from .runner import Runner, not_finite
from .stats import EngineStats, Meter
from .waveform import EMBEDS_ONLY
from .windows import Tail, Windows

# One clip [N], a batch [B, N], or a list of clips.
HostAudio = NDArray[Any] | str | os.PathLike[str] | Sequence[NDArray[Any] | str | os.PathLike[str]]

# More than any machine has cores; each takes address space for a stack.
MAX_THREADS = 1024


class Engine:
    """Turns audio into embeddings. Safe from many threads at once, and a context manager.

    On the CPU it works in a process forked from this one too, where its first call opens the
    artifact again; on a GPU, whose state no forked process has, calls raise there. Pickled it is
    its arguments: the process that reads it opens the same file. A copy is the engine itself.

    Args:
        path: an artifact, `.onnx` or a TensorRT `.plan`; or the name of a preset or a model, such
            as ``cnn14-fusion``, with its pretrained weights: its first use exports it into the
            user's cache, see ``fusion_engine.named``.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which logs what it chose and why.
        backend: ``onnxruntime`` or ``tensorrt``; ``None``: the one that the artifact's suffix
            names. An `.onnx` with ``tensorrt`` computes in FP16: it is built into a plan on first
            use, which the user's cache keeps.
        contexts: GPU: calls that run at once; others wait.
        threads: CPU threads of one call, at most 1024; ``None``: one for every core this process
            may use by its affinity and its container's quota.
        spinning: CPU: let idle threads of ONNX Runtime wait busily for work. It costs a core each,
            and is much slower where there are fewer cores than threads.
        normalization: mean and standard deviation of the log-mel in place of the artifact's, for
            a model that normalises it (AST: published evaluations use the task's own statistics).
        warmup: pairs of batch size and seconds to run now, until they take the fast path, so that
            the first real call of that shape is not the slow one. On a GPU that is float32 samples
            from the host and the artifact's head: another type, head or a GPU's own array has a
            fast path of its own, and makes it in its first two calls.
        memory_limit: GPU: bytes of device memory for the buffers of the shapes seen last;
            ``None``: half of the GPU's. Weights are not counted.

    Raises:
        ArtifactError: the artifact is missing, damaged, or has no or an unknown spec.
        BackendError: the library or the device is missing, or memory or threads run out.
        ExportError, WeightsError: a name whose export or download failed.
        ValueError: an argument out of range, or ``normalization`` for a model without one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backend: str | None = None,
        contexts: int = 2,
        threads: int | None = None,
        spinning: bool = False,
        normalization: tuple[float, float] | None = None,
        warmup: Iterable[tuple[int, float]] = (),
        memory_limit: int | None = None,
    ) -> None:
        for name, value in (
            ("contexts", contexts),
            ("threads", threads),
            ("memory_limit", memory_limit),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if threads is not None and threads > MAX_THREADS:
            raise ValueError(f"threads is {threads}, expected at most {MAX_THREADS}")
        warmup = list(warmup)
        path = named_artifact(path)
        self._path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays one
        self._arguments = {
            "device": device,
            "backend": backend,
            "contexts": contexts,
            "threads": threads,
            "spinning": spinning,
            "normalization": normalization,
            "warmup": warmup,
            "memory_limit": memory_limit,
        }
        self._gone = "this engine was closed: open the artifact again"
        self._meter = Meter()
        runner = open_runner(
            path,
            Options(
                device=device,
                backend=backend,
                contexts=contexts,
                threads=threads or usable_cpus(),
                spinning=spinning,
                memory_limit=memory_limit,
                normalization=normalization,
            ),
            self._meter,
        )
        self._open: Dispatcher | None = Dispatcher(runner, self._meter)
        # In the right order also where nobody closes the engine.
        self._finalizer = weakref.finalize(self, runner.close)
        self._spec, self._device, self._backend = runner.spec, runner.device, runner.name
        self._embeds_only = runner.embeds_only
        # On a CPU one call keeps all of its threads busy.
        self._background = Background(1 if self._device == "cpu" else contexts)
        self._head = self._check_head(None)
        watch_forks(self)
        try:
            for batch, seconds in warmup:
                clips = np.zeros((batch, round(seconds * self.sample_rate)), np.float32)
                # A GPU takes a shape's second use to record the fast path.
                for _ in range(1 if self.device == "cpu" else 2):
                    self.embed(clips)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        layers = ", ".join(str(layer.number) for layer in self.spec.layers)
        state = "closed" if self._open is None else f"{self.device}, {self.backend}"
        return (
            f"<{type(self).__name__} {str(self._path)!r}: {self.spec.model}, layers {layers}, "
            f"D = {self.embedding_dim}, {state}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        self._runner  # noqa: B018 - a closed engine has none
        return {"path": self._path, **self._arguments}

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def after_fork(self) -> None:
        """In a forked process: let go of a GPU, which only the process that opened it has."""
        self._background = Background(self._background.most)  # whose threads are not here
        if self._open is not None and self.device != "cpu":
            never_free(self._open.runner)
            self._finalizer.detach()
            self._open = None
            self._gone = (
                f"this engine was opened on {self.device} before this process was forked, and "
                "CUDA does not work in a forked process. Open the artifact in each process, and "
                "start processes that use a GPU by 'spawn' or 'forkserver'"
            )

    def close(self) -> None:
        """Give back device memory, streams and weights; calls under way are waited for.

        Calls of ``embed_async`` that have not begun are cancelled.
        """
        self._background.close()
        self._open = None
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def spec(self) -> Spec:
        """The artifact's spec, with the normalisation that was asked for."""
        return self._spec

    @property
    def sample_rate(self) -> int:
        """The model's sample rate in Hz."""
        return self.spec.frontend.sample_rate

    @property
    def embedding_dim(self) -> int:
        """D, the length of an embedding."""
        return self.spec.embedding_dim

    @property
    def frame_rate(self) -> float | None:
        """Frame features per second; ``None`` where a layer pools over the whole clip.

        A waveform artifact has none either.
        """
        return None if self._embeds_only else self.spec.frame_rate

    @property
    def device(self) -> str:
        """What really runs: ``cpu`` or ``cuda:0``."""
        return self._device

    @property
    def backend(self) -> str:
        """Library and version of what really runs, and the GPU's name."""
        return self._backend

    @property
    def stats(self) -> EngineStats:
        """What this engine has done so far, and what it holds on its GPU."""
        figures = self._open.runner.figures() if self._open is not None else {}
        return replace(self._meter.stats, **figures)

    @overload
    def embed(
        self, audio: HostAudio, *, sample_rate: int | None = None, head: Head | None = None
    ) -> NDArray[np.float32]: ...

    @overload
    def embed(
        self, audio: OnDevice, *, sample_rate: int | None = None, head: Head | None = None
    ) -> DeviceArray: ...

    def embed(self, audio: Any, *, sample_rate: int | None = None, head: Head | None = None) -> Any:
        """The embedding z̃ of one or many clips (Niizumi et al. 2022, Eq. 1 to 3).

        Args:
            audio: samples [N] or a batch [B, N] (float32 or float64 in [-1, 1], or int16), a
                path, or a list of arrays [N] and paths. Clips of a list may differ in length.
                On a GPU engine also an array [N] or [B, N] of float32 or int16 in that GPU's
                memory, anything with DLPack or the CUDA array interface: nothing is then copied
                through the host, and its samples must be at ``engine.sample_rate``.
            sample_rate: rate of the arrays in Hz; ``None``: they are at ``engine.sample_rate``.
            head: pooling over time, ``mean_max``, ``mean`` or ``max``; ``None``: the artifact's.

        Returns:
            float32 [D] for one clip, [B, D] for a batch or a list: a NumPy array, or for an array
            in GPU memory a ``DeviceArray`` there. A clip's embedding does not depend on the other
            clips of the call: on the CPU bit for bit for CNN14, VGGish and AST, within 1e-6 of its
            largest value for other modules, whose products may sum in another order in a batch.

        Raises:
            AudioError: undecodable, empty, non-finite or mis-shaped audio, or a clip too long for
                an artifact that cannot cut it.
            NumericalError: a layer output is not finite.
            TypeError, ValueError: a wrong argument.
        """
        head = self._head if head is None else self._check_head(head)
        dispatcher = self._dispatcher
        runner = dispatcher.runner
        if type(audio) is np.ndarray:
            embedding = dispatcher.embed_array(audio, sample_rate, head)
            if embedding is not None:
                return embedding
        elif type(audio) in (list, tuple):
            embedding = dispatcher.embed_list(audio, sample_rate, head)
            if embedding is not None:
                return embedding
        elif is_on_gpu(audio):
            if sample_rate not in (None, self.sample_rate):
                raise ValueError(
                    f"sample_rate is {sample_rate}, and audio in GPU memory is not resampled: "
                    f"expected samples at {self.sample_rate} Hz"
                )
            return runner.embed_on_device(audio, head)
        return dispatcher.embed_audio(audio, sample_rate, head)

    def embed_async(
        self, audio: Any, *, sample_rate: int | None = None, head: Head | None = None
    ) -> Future[Any]:
        """``embed`` in a thread of the engine's; ``asyncio.wrap_future`` makes it awaitable.

        On a GPU ``contexts`` calls run at once, on a CPU one. Arrays must not be changed before
        the future is done.

        Args:
            audio, sample_rate, head: as for ``embed``.

        Returns:
            The future of what ``embed`` returns, or of what it raises. It can be cancelled until
            its call begins, and closing the engine does so.

        Raises:
            BackendError: the engine was closed.
        """
        self._runner  # noqa: B018 - a closed engine has none

        def call() -> Any:
            return self.embed(audio, sample_rate=sample_rate, head=head)

        return self._background.submit(call)

    def input(
        self, batch: int, seconds: float, *, dtype: Literal["float32", "int16"] = "float32"
    ) -> NDArray[Any]:
        """An array to write clips into, which goes to a GPU from where it is: no copy before.

        On a CPU it is an ordinary array. Page-locked memory is scarce: a service keeps a few such
        arrays and writes into them again and again.

        Args:
            batch: B.
            seconds: of each clip, at ``engine.sample_rate``.
            dtype: of the samples: ``float32`` in [-1, 1] or ``int16``.

        Returns:
            Zeros [B, N] in page-locked memory, which lives as long as the array and its views. Give
            ``embed`` it, or contiguous clips in it.

        Raises:
            BackendError: the engine was closed, or memory ran out.
            ValueError: an argument out of range.
        """
        samples = round(seconds * self.sample_rate) if math.isfinite(seconds) else 0
        if batch < 1 or samples < 1:
            raise ValueError(
                f"batch is {batch} and seconds is {seconds}, expected at least one clip of at "
                "least one sample"
            )
        if dtype not in ("float32", "int16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'int16'")
        return self._runner.input(batch, samples, dtype)

    def embed_stream(
        self,
        items: Iterable[tuple[Hashable, Any]],
        *,
        window: float | None = None,
        hop: float | None = None,
        tail: Tail = "half",
        head: Head | None = None,
        channel: Channel = "mix",
        partial: bool = False,
    ) -> Iterator[Embedded]:
        """Embed recordings of any number and length, in order and in bounded memory.

        Files are decoded ahead in threads, and of a recording only a few blocks are held, also of
        one that is a single long clip. A window's embedding is that of the same samples embedded
        alone: on the CPU bit for bit for CNN14, VGGish and AST.

        Args:
            items: pairs of a key, which comes back, and audio: samples [N] at
                ``engine.sample_rate``, or a path. Taken up to 64 ahead of the one being cut.
            window: seconds; ``None``: a recording is one clip.
            hop: seconds from one window's first sample to the next one's, which is rounded from its
                exact place, so that nothing drifts; ``None``: ``window``.
            tail: what becomes of the samples after the last whole window: ``half``: a shorter
                window if they are at least half of one; ``keep``: always; ``pad``: one with zeros
                added; ``drop``: nothing.
            head: as for ``embed``.
            channel: of files: ``mix``, ``first`` or a number from 1 on.
            partial: of files that are damaged or contradict themselves, take what is there.

        Yields:
            ``Embedded(key, start, end, result)``, at least one for each item. An error is the
            result of its clip, or of the whole item, of which then nothing more comes.

        Raises:
            BackendError: the library failed.
            TypeError, ValueError: a wrong argument.
        """
        if channel == "all":
            raise ValueError("channel is 'all', expected 'mix', 'first' or a number from 1 on")
        cut = self.windows(window, hop, tail)
        events = self.embed_items(
            (Item(key=key, audio=audio) for key, audio in items),
            windows=cut,
            head=head,
            channel=channel,
            partial=partial,
        )
        for event, result in events:
            if isinstance(event, Clip):
                assert result is not None
                start, end = event.start / self.sample_rate, event.end / self.sample_rate
                yield Embedded(event.key, start, end, result)
            elif isinstance(event, End) and event.error is not None:
                yield Embedded(event.key, math.nan, math.nan, event.error)

    def windows(self, window: float | None, hop: float | None, tail: Tail) -> Windows | None:
        """The rule by which ``embed_stream`` cuts.

        Raises:
            ValueError: see ``embed_stream``.
        """
        if window is None:
            if hop is not None:
                raise ValueError(f"hop is {hop} s, and there is no window: give both")
            return None
        return Windows(window, hop, tail=tail, sample_rate=self.sample_rate)

    def embed_items(
        self,
        items: Iterable[Item],
        *,
        windows: Windows | None = None,
        head: Head | None = None,
        channel: Channel = "mix",
        partial: bool = False,
    ) -> Events:
        """What ``embed_stream`` is made of: also parts of recordings, channels and flags.

        Yields:
            Each clip with its embedding [D] or error, and the end of each item; between them, with
            nothing, the progress of long clips.

        Raises:
            FusionEngineError, TypeError, ValueError: as ``embed_stream``.
        """
        return self._dispatcher.events(
            items,
            self._check_head(head),
            windows=windows,
            channel=channel,
            partial=partial,
        )

    def embed_frames(self, audio: Any, *, sample_rate: int | None = None) -> NDArray[np.float32]:
        """The frame features z of one clip, ``engine.frame_rate`` of them per second.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            float32 [D, T_o]; for a model whose segments have no time axis, one column a segment.

        Raises:
            ArtifactError: a layer pools over the whole clip, or a waveform artifact.
            AudioError, NumericalError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        vectors = [layer.name for layer in self.spec.layers if layer.kind == "vector"]
        if vectors and self.spec.segment is None:
            raise ArtifactError(
                f"this artifact has no frame features: {', '.join(vectors)} pools over the whole "
                "clip. Export map layers only."
            )
        runs = list(self._runs(clip))
        if self.spec.frames_per_step is None:
            runs = [
                replace(run, pieces=[replace(piece, count=1) for piece in run.pieces])
                for run in runs
            ]
        steps = [sum(piece.count for piece in run.pieces) for run in runs]
        out = np.empty((self.embedding_dim, sum(steps)), np.float32)
        with self._runner.call():
            state, done = self._runner.clip_state(), 0
            for run, count in zip(runs, steps, strict=True):
                part = np.empty((self.embedding_dim, count), np.float32)
                state.add(clip.samples[run.first : run.stop], run.pieces, part)
                out[:, done : done + count] = part
                done += count
            _, flag = state.finish("mean")
        if flag:
            raise not_finite(self.spec, flag, clip.name)
        return out

    def layer_outputs(
        self, audio: Any, *, sample_rate: int | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The backbone's layer outputs for one clip, before any pooling.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            For each layer ``layer_N``: float32 [C, T_l, F] for a map, [C] for a vector, a long
            clip's chunks joined. A model that takes segments has them as a first axis.

        Raises:
            ArtifactError: a waveform artifact, which has no layer outputs.
            AudioError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        runs = list(self._runs(clip))
        parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        with self._runner.call():
            for run in runs:
                outputs = self._runner.layer_outputs(clip.samples[run.first : run.stop], run.pieces)
                for layer, output in zip(self.spec.layers, outputs, strict=True):
                    if self.spec.segment is None and layer.kind == "map":
                        (piece,) = run.pieces
                        first = piece.begin * layer.time_pool
                        # The last piece keeps the ragged tail that the pooling drops.
                        last = None if run is runs[-1] else first + piece.count * layer.time_pool
                        output = output[:, :, first:last]
                    parts[layer.name].append(output)
        if self.spec.segment is not None:
            return {name: np.concatenate(part) for name, part in parts.items()}
        return {
            name: part[0][0] if len(part) == 1 else np.concatenate(part, axis=2)[0]
            for name, part in parts.items()
        }

    @property
    def _dispatcher(self) -> Dispatcher:
        dispatcher = self._open
        if dispatcher is None:
            raise BackendError(self._gone)
        # Every call comes here, also those that nobody asks the stats of.
        if len(self._meter.amounts) > Meter.MOST:
            self._meter.settle()
        return dispatcher

    @property
    def _runner(self) -> Runner:
        return self._dispatcher.runner

    def _runs(self, clip: Clip) -> Iterator[Run]:
        """Of a whole clip."""
        return self._runner.cutting.runs(clip.name).of(len(clip.samples), ended=True)

    def _one_clip(self, audio: Any, sample_rate: int | None) -> Clip:
        """The clip whose insides are asked for."""
        if self._embeds_only:
            raise ArtifactError(f"{self._path}: {EMBEDS_ONLY}")
        clip = read_clip(audio, source_rate=sample_rate, sample_rate=self.sample_rate)
        seconds = len(clip.samples) / self.sample_rate
        self._meter.amounts.append({"clips": 1, "audio_seconds": seconds})
        return clip

    def _check_head(self, head: Head | None) -> Head:
        if self.spec.frames_per_step is None:
            if head not in (None, self.spec.head):
                raise ValueError(
                    f"head is {head!r}, and this artifact has no time axis to pool: leave it out"
                )
            return "mean"  # of one vector: the vector itself
        if head is None:
            return self.spec.head
        heads = (self.spec.head,) if self._embeds_only else HEADS
        if head not in heads:
            what = ", and a waveform artifact has its own" if self._embeds_only else ""
            raise ValueError(f"head is {head!r}{what}: expected one of {list(heads)}")
        return head
