"""From checked clips to runs and back to each clip's place: equal clips together, several runs in
flight where the runner takes them, long clips by themselves."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..audio import Channel
from ..audio.arrays import batch_rows, check_samples
from ..errors import AudioError, BackendError, FusionEngineError
from ..spec import Head
from .clips import End, Event, batches, clip_names, clips_of, read
from .cut import Batch, Long, Refused
from .long_clip import LongClip
from .recording import Clip, Item, LongClips
from .runner import Runner, RunResult, Samples, fault
from .stats import Meter
from .windows import Windows

Result = NDArray[np.float32] | FusionEngineError
Events = Generator[tuple[Event, Result | None], None, None]

# Clips that are decoded or resampled are grouped within so many seconds of audio, so that the
# memory for a long list of files does not grow with the list.
BATCH_SECONDS = 120.0

# Types of samples that the GPU takes.
_AS_THEY_ARE = (np.dtype(np.float32), np.dtype(np.int16))


class Dispatcher:
    """Embeds clips of any lengths on a runner.

    Args:
        runner: what computes.
        meter: told of every clip.
    """

    def __init__(self, runner: Runner, meter: Meter) -> None:
        self.runner, self._meter = runner, meter
        self._rate = runner.spec.frontend.sample_rate

    def events(
        self,
        items: Iterable[Item],
        head: Head,
        *,
        windows: Windows | None = None,
        channel: Channel = "mix",
        partial: bool = False,
        batch_seconds: float | None = None,
        check: bool = True,
    ) -> Events:
        """What comes of items: each clip with its embedding or error, and each item's end.

        Args:
            items, windows, channel, partial, check: as ``clips_of``.
            head: pooling over time.
            batch_seconds: of audio that are grouped; ``None``: ``BATCH_SECONDS``.
        """
        long = LongClips(
            self.runner.cutting.most_samples, lambda name: LongClip(self.runner, self._meter, name)
        )
        clips = clips_of(
            items,
            self._rate,
            windows=windows,
            channel=channel,
            partial=partial,
            long=long,
            check=check,
        )
        with closing(clips):
            for batch in batches(clips, (batch_seconds or BATCH_SECONDS) * self._rate):
                batch_clips = [event for event in batch if isinstance(event, Clip)]
                found = iter(self.embed(batch_clips, head))
                for event in batch:
                    yield event, next(found) if isinstance(event, Clip) else None

    def embed_array(
        self, samples: NDArray[Any], sample_rate: int | None, head: Head
    ) -> NDArray[np.float32] | None:
        """What a service calls: an array [N] or [B, N] that goes to a runner as it is, in one run.

        Returns:
            ``None``: it takes the way of all audio.
        """
        runner = self.runner
        if not (
            runner.checks_samples
            and samples.dtype in _AS_THEY_ARE
            and samples.ndim in (1, 2)
            and samples.size
            and samples.flags.c_contiguous
            and samples.flags.aligned
            and (sample_rate is None or type(sample_rate) is int)
            and sample_rate in (None, self._rate)
        ):
            return None
        single = samples.ndim == 1
        clips = [samples] if single else batch_rows(samples)
        cut = runner.cutting.cut(samples.shape[-1])
        if cut is None or len(clips) > cut.clips_per_run:
            return None
        embeddings, flags, faulty = runner.run(clips, cut, head)
        for row in faulty:
            name = clip_names(len(clips))[row]
            raise self._fault(clips[row], flags[row], embeddings[row], name)
        self._meter.amounts.append(
            {"clips": len(clips), "audio_seconds": samples.size / self._rate}
        )
        result: NDArray[np.float32] = embeddings[0] if single else embeddings
        return result

    def embed_list(
        self, clips: Sequence[Any], sample_rate: int | None, head: Head
    ) -> NDArray[np.float32] | None:
        """The same for a list of arrays [N] of any lengths, each of which one run takes.

        Returns:
            ``None``: it takes the way of all audio.
        """
        runner = self.runner
        own = sample_rate is None or (type(sample_rate) is int and sample_rate == self._rate)
        if not (own and runner.checks_samples):
            return None
        lengths = _core.clip_lengths(clips)
        if not lengths or max(lengths) > runner.cutting.most_samples:
            return None
        names = clip_names(len(clips))
        out = np.empty((len(clips), runner.spec.embedding_dim), np.float32)
        errors: dict[int, FusionEngineError] = {}

        def put(part: Batch, result: RunResult) -> None:
            embeddings, flags, faulty = result
            out[part.rows] = embeddings
            for index in faulty:
                row = part.rows[index]
                errors[row] = self._fault(clips[row], flags[index], embeddings[index], names[row])

        with runner.call(), _InFlight(runner, head, put) as runs:
            for part in runner.cutting.batches(lengths):
                if isinstance(part, Refused):
                    errors[part.row] = part.error
                elif isinstance(part, Batch):
                    runs.add(part, [clips[row] for row in part.rows])
        if errors:
            raise errors[min(errors)]
        self._meter.amounts.append(
            {"clips": len(clips), "audio_seconds": sum(lengths) / self._rate}
        )
        return out

    def embed_audio(self, audio: Any, sample_rate: int | None, head: Head) -> NDArray[np.float32]:
        """Whatever ``Engine.embed`` takes from the host."""
        given = read(audio, source_rate=sample_rate, sample_rate=self._rate)
        out = np.empty((len(given.items), self.runner.spec.embedding_dim), np.float32)
        done = 0
        most = math.inf if given.held else None
        check = not self.runner.checks_samples
        events = self.events(given.items, head, batch_seconds=most, check=check)
        with self.runner.call(), closing(events):
            for event, result in events:
                if isinstance(event, Clip):
                    if isinstance(result, FusionEngineError):
                        raise result
                    out[done] = result
                    done += 1
                elif isinstance(event, End) and event.error is not None:
                    raise event.error
        if done != len(out):
            # A row that nobody wrote holds whatever its memory held before.
            raise BackendError(f"{done} of {len(out)} clips were read: no embeddings")
        return out[0] if given.single else out

    def embed(self, clips: Sequence[Clip], head: Head) -> list[Result]:
        """Embeddings or errors of clips of any lengths, in their order."""
        results: list[Any] = [None] * len(clips)

        def put(part: Batch, result: RunResult) -> None:
            embeddings, flags, faulty = result
            for row, embedding in zip(part.rows, embeddings, strict=True):
                results[row] = embedding
            for index in faulty:
                clip = clips[part.rows[index]]
                results[part.rows[index]] = self._fault(
                    clip.samples, flags[index], embeddings[index], clip.name
                )
            seconds = sum(len(clips[row].samples) for row in part.rows) / self._rate
            self._meter.amounts.append({"clips": len(part.rows), "audio_seconds": seconds})

        with self.runner.call(), _InFlight(self.runner, head, put) as runs:
            for part in self.runner.cutting.batches([clip.end - clip.start for clip in clips]):
                if isinstance(part, Batch):
                    runs.add(part, [clips[row].samples for row in part.rows])
                elif isinstance(part, Long):
                    runs.collect()
                    results[part.row] = self._embed_long(clips[part.row], head)
                else:
                    results[part.row] = part.error
        if len(self._meter.amounts) > Meter.MOST:
            self._meter.settle()
        return results

    def _embed_long(self, clip: Clip, head: Head) -> Result:
        """A clip that takes more than one run; one that came as a stream is run but for its end."""
        try:
            long = clip.long
            if long is None:
                long = LongClip(self.runner, self._meter, clip.name)
                long.push(clip.samples)
            embedding, flag = long.finish(head)
        except AudioError as error:
            return error
        return fault(self.runner.spec, flag, embedding, clip.name) or embedding

    def _fault(
        self, samples: Samples, flag: np.uint32, embedding: NDArray[np.float32], name: str
    ) -> FusionEngineError:
        """Why a run gave no embedding of a clip."""
        try:
            check_samples(samples, name)
        except AudioError as error:
            return error
        found = fault(self.runner.spec, flag, embedding, name)
        assert found is not None
        return found


class _InFlight:
    """The runs of one call, of which the runner takes as many at once as it can.

    A call that has one under way never waits for another call's to end: two such calls would wait
    for each other. It collects its own oldest first.
    """

    def __init__(self, runner: Runner, head: Head, put: Callable[[Batch, RunResult], None]) -> None:
        self._runner, self._head, self._put = runner, head, put
        self._started = deque[tuple[Batch, Callable[[], RunResult]]]()

    def add(self, part: Batch, samples: Sequence[Samples]) -> None:
        """Run a batch of clips, now or as soon as there is room."""
        while self._runner.keeps_in_flight:
            result = self._runner.start(samples, part.cut, self._head)
            if result is not None:
                self._started.append((part, result))
                return
            if not self._started:
                break
            self._collect_oldest()
        self._put(part, self._runner.run(samples, part.cut, self._head))

    def collect(self) -> None:
        """Wait for all."""
        while self._started:
            self._collect_oldest()

    def _collect_oldest(self) -> None:
        part, result = self._started.popleft()
        self._put(part, result())

    def __enter__(self) -> "_InFlight":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.collect()
        # The call has failed: of what is under way no more than its end is wanted.
        while self._started:
            with suppress(Exception):
                self._started.popleft()[1]()
