"""The program in which libsndfile decodes, in a process of its own: see ``isolated.py``.

It imports nothing of the package, so that it starts in the time that soundfile takes.
"""

import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<cI")
_LOG_BYTES = 65_536


def _load_patched_file() -> Any:
    spec = importlib.util.spec_from_file_location(
        "patched", Path(__file__).parent / "container" / "patched.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PatchedFile


def _send(answers: socket.socket, tag: bytes, body: bytes | memoryview) -> None:
    signal.alarm(0)  # how long the other side takes does not count
    answers.sendall(_HEADER.pack(tag, len(body)))
    answers.sendall(body)


def _empty_log() -> None:
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)


def _receive(requests: socket.socket) -> tuple[dict[str, Any], int] | None:
    """The next request and the file it is about; None after the last."""
    head, fds, _, _ = socket.recv_fds(requests, 4, 1)
    if len(head) < 4 or not fds:
        return None
    (length,) = struct.unpack("<I", head)
    body = bytearray()
    while len(body) < length:
        part = requests.recv(length - len(body))
        if not part:
            return None
        body += part
    return json.loads(body), fds[0]


def _feed(file: io.FileIO, pipe: int) -> None:
    try:
        while part := file.read(65_536):
            view = memoryview(part)
            while view:
                view = view[os.write(pipe, view) :]
    except BrokenPipeError:
        pass  # the decoder has seen enough
    finally:
        os.close(pipe)


def _decode(request: dict[str, Any], fd: int, answers: socket.socket, memory: bytearray) -> None:
    """Answer with the format, then the samples in blocks, which ``memory`` holds."""
    import soundfile

    source: Any = fd
    patched: io.FileIO | None = None
    if request["patches"]:
        patches = [(at, bytes.fromhex(patch)) for at, patch in request["patches"]]
        source = patched = _load_patched_file()(f"/dev/fd/{fd}", patches)
    feeder = None
    if request["sequential"]:
        # Of a pipe libsndfile knows no length, so that no guess of it can end the stream early.
        source, pipe = os.pipe()
        file = patched or io.FileIO(fd, closefd=False)
        feeder = threading.Thread(target=_feed, args=(file, pipe))
        feeder.start()
    try:
        with soundfile.SoundFile(source, closefd=False) as sound:
            # From the start to the end; soundfile would seek after every block.
            sound.seekable = lambda: False
            opened = {"rate": sound.samplerate, "channels": sound.channels, "samples": sound.frames}
            _send(answers, b"O", json.dumps(opened | {"format": sound.format}).encode())
            width = 4 * sound.channels
            size = max(1, request["block"] // sound.channels) * width
            memory.extend(bytes(max(0, size - len(memory))))
            block = memoryview(memory)[:size]
            while True:
                signal.alarm(request["patience"])
                count = sound.buffer_read_into(block, "float32")
                if count == 0:
                    break
                if os.fstat(2).st_size > _LOG_BYTES:
                    _empty_log()
                _send(answers, b"S", block[: count * width])
    finally:
        if feeder is not None:
            os.close(source)
            feeder.join()
        if patched is not None:
            patched.close()


def main() -> None:
    """Answer requests on standard input, a socket, until it is closed."""
    import soundfile

    answers = socket.socket(fileno=0)
    # libmpg123 writes there, also about healthy files.
    log = os.memfd_create("log")
    os.dup2(log, 2)
    memory = bytearray()
    while (received := _receive(answers)) is not None:
        request, fd = received
        _empty_log()
        # Ends this process also when it hangs in C and when nobody waits for it any more.
        signal.alarm(request["patience"])
        tag, end = b"E", {}
        try:
            _decode(request, fd, answers, memory)
        except soundfile.SoundFileError as error:
            reason = getattr(error, "error_string", str(error))
            tag, end = b"F", {"reason": reason.removeprefix("Error : ").rstrip(".")}
        except MemoryError:
            tag, end = b"M", {}
        except OSError as error:
            tag, end = b"F", {"reason": error.strerror or str(error)}
        signal.alarm(0)
        os.close(fd)
        end["log"] = os.pread(2, _LOG_BYTES, 0).decode(errors="replace")
        _send(answers, tag, json.dumps(end).encode())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked is gone
        main()
