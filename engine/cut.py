"""From lengths to batches and runs: what goes through the network together, and what counts of it.

A short clip is one piece. A long one is cut into chunks that overlap by the reach of the
convolutions, so that the counted frames of every chunk are what one whole pass would give. A
fixed-input network takes segments.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..errors import AudioError
from ..spec import Spec

# One run of a network that takes segments holds no more of them than this many seconds.
RUN_SECONDS = 60.0
# Lengths of clips whose cut is kept.
_KNOWN_LENGTHS = 4_096


@dataclass(frozen=True)
class Piece:
    """Frames ``start``…``stop`` of a clip's log-mel, of which some steps count.

    Args:
        start: first frame of log-mel.
        stop: one after the last; beyond the clip's end the piece is padded.
        begin: first step that counts, from the piece's own start.
        count: how many count; for a model without a time axis, the piece's weight in the mean.
    """

    start: int
    stop: int
    begin: int
    count: int

    @property
    def frames(self) -> int:
        """Length in frames of log-mel."""
        return self.stop - self.start


@dataclass(frozen=True)
class Run:
    """One run of the network over a part of a clip.

    Args:
        first: first sample of the part.
        stop: one after its last sample.
        pieces: of these samples' log-mel, all of one length.
    """

    first: int
    stop: int
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Cut:
    """How a clip is cut that goes through the network in one run.

    Args:
        frames: of its log-mel.
        pieces: of it, all of one length.
        clips_per_run: how many clips that are cut alike fit one run.
    """

    frames: int
    pieces: Sequence[Piece]
    clips_per_run: int


@dataclass(frozen=True)
class Batch:
    """Clips, by their places in a list, that go through the network in one run.

    With a masked graph the cut is that of a clip as long as their bucket.
    """

    rows: Sequence[int]
    cut: Cut


@dataclass(frozen=True)
class Long:
    """The place of a clip that takes several runs."""

    row: int


@dataclass(frozen=True)
class Refused:
    """The place of a clip that the artifact does not take, and why."""

    row: int
    error: AudioError


class Cutting:
    """How clips are cut for one artifact on one runner.

    Args:
        spec: the artifact's.
        min_frames: the fewest frames of log-mel that the network takes in one piece.
        max_frames: the most: a plan may take less than its artifact.
        run_frames: the most in one run, all pieces together: what bounds the memory.
        pieces_per_run: how many pieces of so many frames one run takes, an ``AudioError`` where it
            takes none of that length; ``None``: what ``run_frames`` allows.

    Attributes:
        most_samples: of a clip that goes through in one run.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        min_frames: int | None = None,
        max_frames: int | None = None,
        run_frames: int | None = None,
        pieces_per_run: Callable[[int], int] | None = None,
    ) -> None:
        self.spec = spec = replace(
            spec,
            min_frames=min_frames or spec.min_frames,
            max_frames=max_frames or spec.max_frames,
        )
        self.run_frames = run_frames or most_frames(spec)
        self._pieces_per_run = pieces_per_run or (lambda frames: self.run_frames // frames)
        self.most_samples = spec.frontend.samples(self.run_frames + 1) - 1
        # A length is computed once.
        self.cut = lru_cache(_KNOWN_LENGTHS)(self._cut)
        self._of_bucket = lru_cache(_KNOWN_LENGTHS)(self._of_frames)

    def _cut(self, samples: int) -> Cut | None:
        """How a clip of so many samples is cut; ``None``: it takes several runs.

        Raises:
            AudioError: it is shorter than the artifact takes.
        """
        frames = frames_of(self.spec, samples)
        if frames > self.run_frames:
            return None
        if self.spec.masked:
            return self._of_bucket(min(bucket(frames), self.run_frames))
        return self._of_frames(frames)

    def _of_frames(self, frames: int) -> Cut:
        pieces = pieces_of(self.spec, frames)
        return Cut(frames, pieces, max(1, self._pieces_per_run(pieces[0].frames) // len(pieces)))

    def batches(self, lengths: Sequence[int]) -> Iterator[Batch | Long | Refused]:
        """What to do with clips of so many samples: those that are cut alike go together."""
        groups: dict[int, tuple[Cut, list[int]]] = {}
        for row, samples in enumerate(lengths):
            try:
                cut = self.cut(samples)
            except AudioError as error:
                yield Refused(row, error)
                continue
            if cut is None:
                yield Long(row)
            else:
                groups.setdefault(cut.frames, (cut, []))[1].append(row)
        for cut, rows in groups.values():
            for first in range(0, len(rows), cut.clips_per_run):
                yield Batch(rows[first : first + cut.clips_per_run], cut)

    def runs(self, name: str = "clip") -> "Runs":
        """The runs of a clip of a name, of which more and more is known."""
        return Runs(self.spec, self.run_frames, name)


def bucket(frames: int) -> int:
    """The length that clips of a masked graph are padded to: one of four to a doubling.

    At most a fifth of a run is padding, a tenth on average, and clips of a second to a minute have
    24 lengths. Twice as many would halve the padding, and as many graphs and slots hold a GPU's
    memory.
    """
    step = 1 << max(0, (frames - 1).bit_length() - 3)
    return -(-frames // step) * step


def least_frames(spec: Spec) -> int:
    """Frames of log-mel that a shorter clip's samples are zero-padded to."""
    least = spec.frontend.least_frames
    if spec.segment is not None and spec.segment.last == "pad":
        return least  # the rest is padding of the log-mel
    return max(least, spec.min_frames)


def frames_of(spec: Spec, samples: int) -> int:
    """Frames of log-mel of a clip, zero-padded where it is shorter than the model takes."""
    return max(least_frames(spec), spec.frontend.frames(samples))


def most_frames(spec: Spec) -> int:
    """The most frames of log-mel in one run on a CPU, all pieces together."""
    if spec.segment is None:
        return spec.max_frames
    per_second = spec.frontend.sample_rate / spec.frontend.hop_length
    length = spec.segment.frames
    return max(1, round(RUN_SECONDS * per_second) // length) * length


def pieces_of(spec: Spec, frames: int, *, name: str = "clip") -> list[Piece]:
    """The pieces of a clip of ``frames`` frames of log-mel (at least ``least_frames``).

    Raises:
        AudioError: the clip is longer than the artifact takes and cannot be cut.
    """
    return list(_Cutter(spec, name).pieces(frames, ended=True))


def core_frames(max_frames: int, margin: int, step: int) -> int:
    """Frames that count in a chunk of at most ``max_frames``; below ``step`` nothing can be cut."""
    return (max_frames - 2 * margin) // step * step


class Runs:
    """The runs of a clip of which more and more is known.

    They depend on the clip's length only, not on how it becomes known.

    Args:
        spec: by which it is cut.
        most_frames: of log-mel in one run.
        name: of the clip, in messages.
    """

    def __init__(self, spec: Spec, most_frames: int, name: str = "clip") -> None:
        self._spec, self._most = spec, most_frames
        self._cutter = _Cutter(spec, name)
        self._waiting: list[Piece] = []

    @property
    def first(self) -> int:
        """The first sample that the runs to come may need."""
        front = self._spec.frontend
        first = self._waiting[0].start if self._waiting else self._cutter.first
        return max(0, first - front.reach) * front.hop_length

    def of(self, samples: int, *, ended: bool) -> Iterator[Run]:
        """The next runs, as far as they follow from the first ``samples`` samples of the clip.

        Args:
            ended: there are no more.

        Raises:
            AudioError: as ``pieces_of``.
        """
        spec = self._spec
        if ended:
            samples = max(samples, spec.frontend.samples(least_frames(spec)))
        frames = spec.frontend.frames(samples) - (0 if ended else spec.frontend.reach)
        waiting = self._waiting
        for piece in self._cutter.pieces(frames, ended=ended):
            length = piece.frames
            if waiting and (waiting[-1].stop != piece.start or waiting[0].frames != length):
                yield self._run(samples)
            waiting.append(piece)
            if (len(waiting) + 1) * length > self._most:
                yield self._run(samples)
        if ended and waiting:
            yield self._run(samples)

    def _run(self, samples: int) -> Run:
        """Of the pieces that wait, with the context that their outermost frames reach into."""
        front, pieces = self._spec.frontend, list(self._waiting)
        self._waiting.clear()
        start = max(0, pieces[0].start - front.reach)
        return Run(
            start * front.hop_length,
            min(samples, front.samples(pieces[-1].stop + front.reach)),
            [replace(p, start=p.start - start, stop=p.stop - start) for p in pieces],
        )


class _Cutter:
    """Cuts one clip, piece by piece, as soon as the rest of it cannot change a piece."""

    def __init__(self, spec: Spec, name: str) -> None:
        self._spec, self._name = spec, name
        self._begin = 0  # the first frame that no piece counts yet

    @property
    def first(self) -> int:
        """The first frame that the pieces to come may hold."""
        margin = self._spec.chunk_margin
        if margin is None:
            return self._begin
        # The last one is as long as the graph takes at least.
        step = self._spec.frames_per_step or 1
        return max(0, self._begin - max(margin, self._spec.min_frames) - step)

    def pieces(self, frames: int, *, ended: bool) -> Iterator[Piece]:
        """The next pieces, of a clip of ``frames`` frames or, where it has not ended, more."""
        following = self._chunk if self._spec.segment is None else self._segment
        while (piece := following(frames, ended)) is not None:
            yield piece

    def _segment(self, frames: int, ended: bool) -> Piece | None:
        """Consecutive segments; the last one is dropped or padded when it is incomplete."""
        rule = self._spec.segment
        assert rule is not None
        start, stop = self._begin, self._begin + rule.frames
        if ended:
            whole = frames // rule.frames
            count = max(1, whole) if rule.last == "drop" else -(-frames // rule.frames)
            if start >= count * rule.frames:
                return None
            # A single segment needs no weight: its mean is then the vector itself, bit for bit.
            weight = 1 if count == 1 else min(frames - start, rule.frames)
        elif frames < stop + rule.frames:  # it may be the only one
            return None
        else:
            weight = rule.frames
        self._begin = stop
        steps = self._spec.frames_per_step
        return Piece(start, stop, 0, weight if steps is None else self._spec.steps(rule.frames))

    def _chunk(self, frames: int, ended: bool) -> Piece | None:
        """The whole clip, or chunks that overlap."""
        spec, begin = self._spec, self._begin
        if begin == 0 and frames <= spec.max_frames:
            if not ended:
                return None
            self._begin = frames
            return Piece(0, frames, 0, spec.steps(frames))
        if begin >= frames:
            return None
        core, margin, step = self._chunking(frames, ended)
        end = begin + core
        # More context than it needs makes a chunk as long as the graph takes at least.
        start = max(0, begin - margin)
        stop = max(end + margin, start + spec.min_frames)
        if not ended and frames < max(stop, end + step):
            return None
        # What remains must hold one frame feature; the margin makes room for it here.
        if frames - end < step:
            end = frames
        stop = min(frames, max(end + margin, start + spec.min_frames))
        start = max(0, min(start, (stop - spec.min_frames) // step * step))
        self._begin = end
        return Piece(start, stop, (begin - start) // step, (end - begin) // step)

    def _chunking(self, frames: int, ended: bool) -> tuple[int, int, int]:
        """Core, margin and step of a clip of so many frames.

        Raises:
            AudioError: it cannot be cut.
        """
        spec = self._spec
        margin, step = spec.chunk_margin, spec.frames_per_step
        if step is None or margin is None:
            hop = spec.frontend.hop_length / spec.frontend.sample_rate
            vectors = ", ".join(layer.name for layer in spec.layers if layer.kind == "vector")
            reason = f"{vectors} pools over the whole clip" if vectors else "it cannot be cut"
            more = "" if ended else " and more"
            raise AudioError(
                f"{self._name}: {frames} frames ({frames * hop:.1f} s){more}, and this artifact "
                f"takes at most {spec.max_frames} ({spec.max_frames * hop:.1f} s), since {reason}. "
                "Cut the audio, or export again with a larger --seconds.",
                kind="longer than the artifact takes",
            )
        core = core_frames(spec.max_frames, margin, step)
        if core < step:
            raise AudioError(
                f"a clip of {frames} frames must be cut into chunks of at most {spec.max_frames} "
                f"frames, and {2 * margin} frames of context leave no room. Export again with a "
                f"--seconds that gives at least {2 * margin + step} frames."
            )
        return core, margin, step
