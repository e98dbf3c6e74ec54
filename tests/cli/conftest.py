"""The command line, in this process (`cli`) and in one of its own (`shell`)."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

import fusion_engine as fe
from fusion_engine.cli import main

from .. import signals
from .in_process import state_kept

RATE = 16_000
MAIN = "from fusion_engine.cli import main; main()"


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """``cli("info", path)`` runs the command in this process."""

    def run(*args: str | os.PathLike[str]) -> Result:
        monkeypatch.setattr(sys, "argv", ["fusion-engine", *map(os.fspath, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Result(stop.value.code or 0, *capfd.readouterr())

    with state_kept():
        yield run


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., Result]:
    """``shell("info", path, before="…", PATH="…")`` runs it in a process of its own.

    ``before`` is Python that runs first, keywords are environment variables; the working directory
    is ``tmp_path``.
    """

    def run(*args: str | os.PathLike[str], before: str = "", **env: str) -> Result:
        done = subprocess.run(
            command(*args, before=before),
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "80"} | env,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=120,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def artifact(cnn14_artifact: Path, tmp_path: Path) -> str:
    (tmp_path / "cnn14.onnx").symlink_to(cnn14_artifact)
    return "cnn14.onnx"


@pytest.fixture(scope="session")
def engine(cnn14_artifact: Path) -> fe.Engine:
    return fe.Engine(cnn14_artifact)


def command(*args: str | os.PathLike[str], before: str = "") -> list[str]:
    start = ["-c", f"{before}\n{MAIN}"] if before else ["-m", "fusion_engine"]
    return [sys.executable, *start, *map(os.fspath, args)]


def write_clip(path: Path, seed: int = 0, seconds: float = 1.0, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened here: libsndfile is given no name, which need not be text.
    with path.open("wb") as file:
        soundfile.write(file, signals.tone(seconds, rate, seed), rate, format="WAV")
    return path


def on_a_terminal(args: list[str], columns: int = 80) -> tuple[int, str]:
    """A command's exit status, and what it writes to stderr when that is a terminal."""
    terminal, stderr = pty.openpty()
    parts: list[bytes] = []

    def collect() -> None:
        while True:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # Linux: the other side is closed
                part = b""
            if not part:
                return
            parts.append(part)

    reader = threading.Thread(target=collect)
    reader.start()
    env = os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
    status = subprocess.run(args, stderr=stderr, env=env, timeout=60).returncode
    os.close(stderr)
    reader.join()
    os.close(terminal)
    return status, b"".join(parts).decode()
