"""A file as a stream of samples: selected channels, at the model's rate, in blocks."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .arrays import MAX_RATE, MIN_RATE, NO_SAMPLES, check_rate, check_samples
from .container import Contents, PatchedFile, examine
from .ffmpeg import FfmpegSource, find_ffmpeg
from .isolated import SndfileSource
from .nonaudio import nonaudio_kind
from .recording import LOUDEST, Channel, check_channel, select
from .sample_source import BrokenError, CannotOpenError, SampleSource

_HEAD_BYTES = 1_024
_UNDECODABLE = "cannot be decoded"


class Decoding:
    """A file being decoded; iterate once, for blocks [n, ``width``] of float32 at ``sample_rate``.

    Memory is that of a few blocks, whatever the file. The flags are those of what was decoded so
    far: final after the last block.

    Args:
        path: a regular file.
        sample_rate: the rate wanted, in Hz.
        channel: see ``load``.
        partial: see ``load``.

    Attributes:
        name: of the file.
        sample_rate: of the blocks.
        channel: as asked for.
        width: channels of a block: 1, or those of the file for ``channel="all"``.
        expected: samples per channel to come, as a header has them; a hint, None if there is none.
        partial: the file is damaged or contradicts itself.
        silent: every sample was zero, before resampling.
        clipped_scale: a sample was beyond ±16, before resampling.

    Raises:
        AudioError: see ``load``; also while iterating.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        *,
        channel: Channel = "mix",
        partial: bool = False,
    ) -> None:
        self.sample_rate = check_rate(sample_rate)
        self.channel = check_channel(channel)
        self.name = os.fspath(path)
        self._take_partial = partial
        self.partial, self.silent, self.clipped_scale = False, True, False
        self._contents, self._source = self._open(Path(path))
        try:
            self._check_format()
        except BaseException:
            self._source.close()
            raise
        channels, rate = self._source.channels, self._source.rate
        self.width = channels if self.channel == "all" else 1
        announced = self._contents.stated_samples or self._source.announced
        self.expected = None if announced is None else announced * self.sample_rate // rate

    def _open(self, path: Path) -> tuple[Contents, SampleSource]:
        try:
            info = path.stat()
            if stat.S_ISDIR(info.st_mode):
                raise AudioError(
                    f"{path}: is a folder, expected an audio file; name the files in it",
                    kind="no regular file",
                )
            # Opening a pipe would wait for its writer.
            if not stat.S_ISREG(info.st_mode):
                raise AudioError(
                    f"{path}: is not a regular file, expected an audio file", kind="no regular file"
                )
            if info.st_size == 0:
                raise AudioError(
                    f"{path}: is empty (0 bytes), expected audio; copy or record it again",
                    kind=NO_SAMPLES,
                )
            with PatchedFile(path) as file:
                contents = examine(file, info.st_size)
                if contents.fault:
                    self._damaged(contents.fault)
                file.seek(0)
                head = file.read(_HEAD_BYTES)
                other = nonaudio_kind(head) if not contents.kind else None
                if other is not None:
                    raise AudioError(f"{path}: is {other}", kind="not audio")
                file.seek(0)
                return contents, self._open_source(path, file.fileno(), contents, head)
        except OSError as error:
            raise AudioError(
                f"{path}: {error.strerror or error}, expected a readable audio file",
                kind=error.strerror or "cannot be read",
            ) from error

    def _open_source(self, path: Path, file: int, contents: Contents, head: bytes) -> SampleSource:
        """With libsndfile, or else ffmpeg; the suffix is not asked, only the content."""
        reason = ""
        try:
            if contents.decoder == "libsndfile":
                # A FLAC without a length is read to its end anyway, and not at all from a pipe.
                sequential = contents.sequential and contents.kind != "FLAC"
                try:
                    return SndfileSource(file, self.name, contents.patches, sequential=sequential)
                except CannotOpenError as error:
                    reason = str(error)
            program = find_ffmpeg()
            if program is not None:
                try:
                    return FfmpegSource(program, path, head)
                except CannotOpenError as error:
                    reason = f"{reason}; ffmpeg: {error}" if reason else f"ffmpeg: {error}"
                raise AudioError(
                    f"{path}: cannot be decoded ({reason}), expected audio; copy or record it "
                    "again",
                    kind=_UNDECODABLE,
                )
        except BrokenError as error:
            raise AudioError(f"{path}: cannot be decoded ({error})", kind=_UNDECODABLE) from error
        cause = reason or f"{contents.kind or 'its format'} is not for libsndfile"
        raise AudioError(
            f"{path}: cannot be decoded ({cause}), expected WAV, FLAC, OGG or MP3; install ffmpeg, "
            "which reads more formats (M4A, AAC, WebM, WMA), or convert it",
            kind=f"{_UNDECODABLE}; ffmpeg is not installed",
        )

    def _check_format(self) -> None:
        rate, channels = self._source.rate, self._source.channels
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(
                f"{self.name}: its sample rate is {rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz",
                kind="sample rate out of range",
            )
        if isinstance(self.channel, int) and self.channel > channels:
            raise AudioError(
                f"{self.name}: has {channels} channel{'s' if channels > 1 else ''}, channel "
                f"{self.channel} was asked for",
                kind="without the channel asked for",
            )

    def _damaged(self, fault: str) -> None:
        if not self._take_partial:
            raise AudioError(
                f"{self.name}: {fault}; copy or record it again", kind="damaged or contradictory"
            )
        self.partial = True

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The blocks."""
        rate, resampler = self._source.rate, self._resampler()
        done = given = 0
        for decoded in self._blocks():
            block = select(decoded, self.channel)
            for column in range(self.width):
                check_samples(block[:, column], self.name, done)
            done += len(block)
            largest = max(float(block.max()), -float(block.min()))
            self.silent = self.silent and largest == 0
            self.clipped_scale = self.clipped_scale or largest > LOUDEST
            out = self._resampled(resampler, block)
            given += len(out)
            if len(out):
                yield out
        self._check_length(done)
        if resampler is not None:
            out = self._resampled(resampler, np.empty((0, self.width), np.float32), last=True)
            given += len(out)
            if len(out):
                yield out
        if given == 0:
            raise AudioError(
                f"{self.name}: {done} samples at {rate} Hz, expected a longer clip", kind=NO_SAMPLES
            )

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        """All channels, to where the decoder stops."""
        try:
            yield from self._source.blocks()
        except BrokenError as error:
            self._damaged(f"damaged, decoding broke off ({error})")

    def _check_length(self, done: int) -> None:
        stated, announced = self._contents.stated_samples, self._source.announced
        if stated is not None and done != stated:
            self._damaged(
                f"{'truncated' if done < stated else 'contradicts its header'}, {done} of the "
                f"{stated} samples that its header states are there"
            )
        elif done < self._contents.least_samples:
            self._damaged(
                f"damaged, {done} of at least {self._contents.least_samples} samples that its "
                "frames add up to could be decoded"
            )
        # Longer it cannot be: libsndfile stops there.
        elif stated is None and announced is not None and done < announced:
            self._damaged(
                f"truncated or damaged, {done} of the {announced} samples that it announces could "
                "be decoded"
            )

    def _resampler(self) -> Any:
        if self._source.rate == self.sample_rate:
            return None
        import soxr

        return soxr.ResampleStream(
            self._source.rate, self.sample_rate, self.width, dtype="float32", quality="HQ"
        )

    def _resampled(
        self, resampler: Any, block: NDArray[np.float32], *, last: bool = False
    ) -> NDArray[np.float32]:
        if resampler is None:
            return block.copy()  # what it is a view of is overwritten
        # Of one channel soxr takes [n].
        flat = block if self.width > 1 else block[:, 0]
        out: NDArray[np.float32] = resampler.resample_chunk(np.ascontiguousarray(flat), last=last)
        return out.reshape(-1, self.width)

    def close(self) -> None:
        """End the decoder, wherever it is."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
