"""How a clip's log-mel is cut into the pieces that go through the backbone.

A short clip is one piece. A long one is cut into chunks that overlap by the reach of the
convolutions, so that the counted frames of every chunk are what one whole pass would give. A
fixed-input backbone takes segments.
"""

from dataclasses import dataclass

from ..errors import AudioError
from ..spec import Spec


@dataclass(frozen=True)
class Piece:
    """Frames ``start``…``stop`` of a clip's log-mel, of which some frame features count.

    Args:
        start: first frame of log-mel.
        stop: behind the last; beyond the clip's end the piece is padded.
        begin: first frame feature that counts, from the piece's own start.
        count: how many count.
    """

    start: int
    stop: int
    begin: int
    count: int

    @property
    def frames(self) -> int:
        """Length in frames of log-mel."""
        return self.stop - self.start


def pieces_of(spec: Spec, frames: int, *, name: str = "clip") -> list[Piece]:
    """The pieces of a clip of ``frames`` frames of log-mel (at least ``spec.min_frames``).

    Raises:
        AudioError: the clip is longer than the artifact takes and cannot be cut.
    """
    step = spec.frames_per_step
    if frames <= spec.max_frames:
        return [Piece(0, frames, 0, 1 if step is None else frames // step)]
    if step is None or spec.chunk_margin is None:
        hop = spec.frontend.hop_length / spec.frontend.sample_rate
        raise AudioError(
            f"{name}: {frames} frames ({frames * hop:.1f} s), and this artifact takes at most "
            f"{spec.max_frames} ({spec.max_frames * hop:.1f} s) because "
            f"{spec.layers[-1].name if len(spec.layers) == 1 else 'one of its layers'} pools over "
            "the whole clip. Cut the audio, or export again with a larger --seconds."
        )
    return _chunks(frames, spec.max_frames, spec.chunk_margin, step)


def core_frames(max_frames: int, margin: int, step: int) -> int:
    """Frames that count in a chunk of at most ``max_frames``; below ``step`` nothing can be cut."""
    return (max_frames - 2 * margin) // step * step


def _chunks(frames: int, max_frames: int, margin: int, step: int) -> list[Piece]:
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
        start, stop = max(0, begin - margin), min(frames, end + margin)
        pieces.append(Piece(start, stop, (begin - start) // step, (end - begin) // step))
        begin = end
    return pieces
