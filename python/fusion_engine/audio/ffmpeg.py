"""The ffmpeg program, for what libsndfile does not read."""

import os
import re
import selectors
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import sample_source
from .sample_source import BrokenError, CannotOpenError

# Formats that hold samples themselves. Playlists (hls, concat, dash) name other files and hosts.
_FORMATS = (
    "aa,aiff,amr,amrnb,amrwb,ape,asf,ast,au,avi,caf,dsf,dv,flac,flv,gsm,iff,ircam,m4a,matroska,mka,"
    "mov,mp4,mpc,mpc8,mpeg,mpegts,nist,nut,oga,ogg,oma,opus,rm,shn,sln,sox,tak,tta,voc,w64,wav,"
    "webm,wsaud,wv,xwma"
)
# Those without a container, which ffmpeg also finds after a destroyed beginning.
_STREAMS = ",aac,ac3,dts,eac3,latm,loas,mlp,mp3,truehd"
_STDERR_BYTES = 65_536
_AU_HEADER = struct.Struct(">4sIIIII")
_AU_FLOAT = 6


def find_ffmpeg() -> str | None:
    """Where the program is, if it is on PATH."""
    return shutil.which("ffmpeg")


def starts_with_sync(head: bytes) -> bool:
    """Whether a file with these first bytes may be a bare stream: their frames begin at once."""
    return (
        head[:3] == b"ID3"
        or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")  # MPEG audio, AAC
        or head[:2] in (b"\x0b\x77", b"\x77\x0b")  # AC-3
        or (head[:1] == b"\x56" and head[1:2] >= b"\xe0")  # LATM
        or head[:4] in (b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80")  # DTS
        or head[4:7] == b"\xf8\x72\x6f"  # TrueHD, MLP
    )


class FfmpegSource:
    """An open file that ffmpeg decodes, its first audio stream; see ``SampleSource``.

    Args:
        program: ffmpeg.
        path: of the file.
        head: its first bytes.

    Raises:
        CannotOpenError: ffmpeg does not read it.
        BrokenError: it did not answer.
    """

    announced: int | None = None

    def __init__(self, program: str, path: str | os.PathLike[str], head: bytes) -> None:
        self._name = f"file:{Path(path).absolute()}"
        # AU: the header states rate and channels, and has no length that a pipe could not hold.
        command = [program, "-nostdin", "-hide_banner", "-v", "error", "-threads", "1"]
        command += ["-protocol_whitelist", "file", "-format_whitelist"]
        command += [_FORMATS + _STREAMS if starts_with_sync(head) else _FORMATS]
        command += ["-i", self._name, "-map", "0:a:0", "-map_metadata", "-1"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            raise CannotOpenError(f"{program}: {error.strerror}") from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pipes = (self._process.stdout, self._process.stderr)
        self._stdout, self._stderr = (pipe.fileno() for pipe in self._pipes)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)
        self._said = b""
        try:
            self._rest = self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> bytes:
        """Set rate and channels; the samples that came with the header."""
        head = b""
        while len(head) < _AU_HEADER.size or len(head) < int.from_bytes(head[4:8], "big"):
            part = self._read()
            if not part:
                raise CannotOpenError(self._complaint() or "it found no audio")
            head += part
        magic, start, _, encoding, self.rate, self.channels = _AU_HEADER.unpack_from(head)
        if magic != b".snd" or encoding != _AU_FLOAT or self.channels < 1:
            raise CannotOpenError("its answer is no AU file of floats")
        return head[start:]

    def _read(self) -> bytes:
        """Some of its output; nothing at the end."""
        sample_source.waiting_for(self._process.kill)
        while self._selector.get_map():
            ready = self._selector.select(sample_source.BLOCK_TIMEOUT)
            if not ready:
                raise BrokenError(f"ffmpeg did not answer within {sample_source.BLOCK_TIMEOUT} s")
            for key, _ in ready:
                fd = key.fd
                part = os.read(fd, 4 * sample_source.BLOCK if fd == self._stdout else _STDERR_BYTES)
                if not part:
                    self._selector.unregister(fd)
                elif fd == self._stdout:
                    return part
                else:
                    self._said = (self._said + part)[:_STDERR_BYTES]
        return b""

    def _complaint(self) -> str:
        """The first thing it said, or how it ended if that was badly."""
        try:
            code = self._process.wait(sample_source.BLOCK_TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"ffmpeg did not answer within {sample_source.BLOCK_TIMEOUT} s"
        for line in self._said.decode(errors="replace").splitlines():
            said = re.sub(r"^(\[[^]]*\] )+", "", line.strip()).replace(f"{self._name}: ", "")
            if said:
                return re.sub(r" whitelist '.*'$", " whitelist", said)  # a long list
        return f"ffmpeg: exit status {code}" if code else ""

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """See ``SampleSource``; all that ffmpeg complains about is damage."""
        width = 4 * self.channels
        rest = self._rest
        try:
            while True:
                whole = len(rest) // width * width
                if whole:
                    block = np.frombuffer(rest[:whole], ">f4").astype(np.float32)
                    rest = rest[whole:]
                    yield block.reshape(-1, self.channels)
                part = self._read()
                if not part:
                    break
                rest += part
            complaint = self._complaint()
            if complaint:
                raise BrokenError(complaint)
        finally:
            self.close()

    def close(self) -> None:
        """See ``SampleSource``."""
        sample_source.waiting_for(None)
        if self._process.poll() is None:
            self._process.kill()
        self._selector.close()
        for pipe in self._pipes:
            pipe.close()
        # Stuck in the kernel it would not end: it is abandoned.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
