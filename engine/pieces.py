"""How a clip's log-mel is cut into the pieces that go through the backbone.

A short clip is one piece. A long one is cut into chunks that overlap by the reach of the
convolutions, so that the counted frames of every chunk are what one whole pass would give. A
fixed-input backbone takes segments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import AudioError
from ..spec import SegmentRule, Spec

# One run of a backbone that takes segments holds no more of them than this many seconds.
RUN_SECONDS = 60.0


@dataclass(frozen=True)
class Piece:
    """Frames ``start``…``stop`` of a clip's log-mel, of which some frame features count.

    Args:
        start: first frame of log-mel.
        stop: behind the last; beyond the clip's end the piece is padded.
        begin: first frame feature that counts, from the piece's own start.
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


def least_frames(spec: Spec) -> int:
    """Frames of log-mel that a shorter clip's samples are zero-padded to."""
    least = spec.frontend.least_frames
    if spec.segment is not None and spec.segment.last == "pad":
        return least  # the rest is padding of the log-mel
    return max(least, spec.min_frames)


def run_frames(spec: Spec) -> int:
    """The most frames of log-mel in one run, all pieces together: what bounds the memory."""
    if spec.segment is None:
        return spec.max_frames
    per_second = spec.frontend.sample_rate / spec.frontend.hop_length
    return max(spec.segment.frames, round(RUN_SECONDS * per_second))


def pieces_of(spec: Spec, frames: int, *, name: str = "clip") -> list[Piece]:
    """The pieces of a clip of ``frames`` frames of log-mel (at least ``least_frames``).

    Raises:
        AudioError: the clip is longer than the artifact takes and cannot be cut.
    """
    step = spec.frames_per_step
    if spec.segment is not None:
        return _segments(frames, spec, spec.segment)
    if frames <= spec.max_frames:
        return [Piece(0, frames, 0, spec.steps(frames))]
    if step is None or spec.chunk_margin is None:
        hop = spec.frontend.hop_length / spec.frontend.sample_rate
        vectors = ", ".join(layer.name for layer in spec.layers if layer.kind == "vector")
        reason = f"{vectors} pools over the whole clip" if vectors else "the model cannot be cut"
        raise AudioError(
            f"{name}: {frames} frames ({frames * hop:.1f} s), and this artifact takes at most "
            f"{spec.max_frames} ({spec.max_frames * hop:.1f} s), since {reason}. Cut the audio, "
            "or export again with a larger --seconds."
        )
    return _chunks(frames, spec, spec.chunk_margin, step)


def runs_of(pieces: Sequence[Piece], most_frames: int) -> Iterator[Sequence[Piece]]:
    """Neighbouring pieces of one length that fit one run."""
    first = 0
    while first < len(pieces):
        length = pieces[first].frames
        stop = first + 1
        while (
            stop < len(pieces)
            and pieces[stop].frames == length
            and (stop + 1 - first) * length <= most_frames
        ):
            stop += 1
        yield pieces[first:stop]
        first = stop


def _segments(frames: int, spec: Spec, rule: SegmentRule) -> list[Piece]:
    """Consecutive segments; the last one is dropped or padded when it is incomplete."""
    whole = frames // rule.frames
    count = max(1, whole) if rule.last == "drop" else -(-frames // rule.frames)
    pieces = []
    for start in range(0, count * rule.frames, rule.frames):
        real = min(frames - start, rule.frames)
        # A single segment needs no weight: its mean is then the vector itself, bit for bit.
        weight = 1 if count == 1 else real
        counted = weight if spec.frames_per_step is None else spec.steps(rule.frames)
        pieces.append(Piece(start, start + rule.frames, 0, counted))
    return pieces


def core_frames(max_frames: int, margin: int, step: int) -> int:
    """Frames that count in a chunk of at most ``max_frames``; below ``step`` nothing can be cut."""
    return (max_frames - 2 * margin) // step * step


def _chunks(frames: int, spec: Spec, margin: int, step: int) -> list[Piece]:
    max_frames = spec.max_frames
    core = core_frames(max_frames, margin, step)
    if core < step:
        raise AudioError(
            f"a clip of {frames} frames must be cut into chunks of at most {max_frames} frames, "
            f"and {2 * margin} frames of context leave no room. Export again with a --seconds "
            f"that gives at least {2 * margin + step} frames."
        )
    pieces = []
    begin = 0
    while begin < frames:
        end = begin + core
        # What remains must hold one frame feature; the margin makes room for it here.
        if frames - end < step:
            end = frames
        # More context than it needs makes a chunk as long as the graph takes at least.
        start = max(0, begin - margin)
        stop = min(frames, max(end + margin, start + spec.min_frames))
        start = max(0, min(start, (stop - spec.min_frames) // step * step))
        pieces.append(Piece(start, stop, (begin - start) // step, (end - begin) // step))
        begin = end
    return pieces
