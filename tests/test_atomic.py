import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fusion_engine import FusionEngineError
from fusion_engine._atomic import atomic_path, refuse_inputs


def test_appears_at_the_end(tmp_path):
    target = tmp_path / "x.onnx"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".onnx"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_leaves_no_trace_of_a_failure(tmp_path, error):
    (tmp_path / "x.onnx").write_text("old")

    def write(name):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise error

    for name in ("x.onnx", "y.onnx"):
        with pytest.raises(error):
            write(name)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_text() == "old"


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "x"):
        pass
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "x")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "x").read_text() == "new"


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "no" / "x", "No such file or directory; create the folder first"),
        (tmp_path / "file" / "x", "Not a directory; choose a path inside a folder"),
        (tmp_path, "Is a directory; choose a file name"),
    ):
        with pytest.raises(FusionEngineError) as caught, atomic_path(path):
            pass
        assert str(caught.value).startswith(f"cannot write {path}: {reason}")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission():
    root = os.geteuid() == 0  # whom permissions do not bind
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        if root:
            os.seteuid(65_534)
        try:
            with (
                pytest.raises(FusionEngineError, match="Permission denied; choose a folder that"),
                atomic_path(f"{folder}/x"),
            ):
                pass
        finally:
            if root:
                os.seteuid(0)


def test_a_body_that_meets_a_full_disk(tmp_path):
    """The limit on file sizes ends a write as a full disk does."""
    program = f"""
import resource
from fusion_engine import FusionEngineError
from fusion_engine._atomic import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with atomic_path({str(tmp_path / "x")!r}) as temporary:
        temporary.write_bytes(bytes(1_000))
except FusionEngineError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"cannot write {tmp_path / 'x'}: File too large; free some space")
    assert [file.name for file in tmp_path.iterdir()] == []


def test_errors_of_other_files_pass(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "other").read_text()
    with pytest.raises(FusionEngineError, match="No space left"), atomic_path(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as libraries raise it
    assert [file.name for file in tmp_path.iterdir()] == []


HOLD = """
import sys, time
from fusion_engine._atomic import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""
WRITE = """
import sys
from fusion_engine._atomic import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("new")
"""


def test_what_a_killed_process_left_is_removed_and_a_living_one_s_is_not(tmp_path):
    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "x"], stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().strip()

    def names():
        return sorted(file.name for file in tmp_path.iterdir())

    def write():
        subprocess.run([sys.executable, "-c", WRITE, tmp_path / "x"], check=True)

    (tmp_path / ".fusion_engine-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".fusion_engine-folder").mkdir()
    kept = [".fusion_engine-folder", ".fusion_engine-link"]
    living, name = start()
    killed, other = start()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert names() == sorted([*kept, name, other])
        write()
        assert names() == sorted([*kept, name, "x"])
    finally:
        living.kill()
        living.wait()
        living.stdout.close()
        killed.stdout.close()
    write()
    assert names() == [*kept, "x"]
    assert (tmp_path / "x").read_text() == "new"


def test_one_swept_away_before_its_lock_is_made_again(tmp_path, monkeypatch):
    real, removed = fcntl.flock, []

    def flock(file, how):
        if not removed:
            (first,) = tmp_path.iterdir()
            first.unlink()
            removed.append(first)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic_path(tmp_path / "x") as temporary:
        assert temporary not in removed
        temporary.write_text("new")
    assert (tmp_path / "x").read_text() == "new"


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".fusion_engine-0").touch()
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".fusion_engine-0", "x"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "to_null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        before = {file: file.lstat().st_mode for file in tmp_path.iterdir()}
        for name, kind in (
            ("pipe", "a named pipe"),
            ("to_pipe", "a named pipe"),
            ("socket", "a socket"),
            ("to_null", "a device"),
        ):
            message = f"{name}: it is {kind}, expected a regular file or a new one; choose another"
            with pytest.raises(FusionEngineError, match=message), atomic_path(tmp_path / name):
                pytest.fail("the body ran")
        assert {file: file.lstat().st_mode for file in tmp_path.iterdir()} == before


def test_an_output_that_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to("a")
    (tmp_path / "dangling").symlink_to("b")
    for output, given in (
        ("a", "a"),
        ("a", tmp_path / "a"),
        ("link", "a"),
        ("a", "link"),
        ("hard", "a"),
        ("dangling", "b"),
    ):
        with pytest.raises(FusionEngineError, match=rf"cannot write {output}: it is the input"):
            refuse_inputs(output, ["c", given])
    refuse_inputs("b", ["a", "c"])
    refuse_inputs("a", [])
