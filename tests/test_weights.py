"""Against an HTTP server of this process on 127.0.0.1."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fusion_engine import WeightsError, weights
from fusion_engine.weights import WEIGHTS, WeightsFile, download, is_cached, pretrained_path

CONTENT = np.random.default_rng(0).bytes(1_000_003)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 500_000


class Server(ThreadingHTTPServer):
    """Sends ``content``; the attributes make it misbehave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.status = 200
        self.kind = "application/octet-stream"
        self.ranges = True
        self.shift = 0  # of the range sent against the range asked for
        self.cut_after = None  # bytes after which the connection breaks
        self.pause = None  # an event that is waited for in the middle
        self.asked = threading.Event()
        self.requests = []

    def file(self, name="model=1.pth", checksum=MD5):
        url = f"http://127.0.0.1:{self.server_address[1]}/{name}?download=1"
        return WeightsFile(name=name, url=url, checksum=checksum)

    def handle_error(self, request, client_address):
        pass  # Clients that are killed in the middle are part of the tests.


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.ranges else 0
        if start >= len(server.content) and start:
            self.send_error(416)
            return
        self.send_response(206 if start and server.status == 200 else server.status)
        start -= server.shift
        if start:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        body = server.content[start:]
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut_after or HALF])
        server.asked.set()
        if server.pause:
            server.pause.wait(20)
        if server.cut_after is None:
            self.wfile.write(body[HALF:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FUSION_ENGINE_OFFLINE", raising=False)
    return folder


def left_in(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock"))


def check_advice(error, file):
    assert file.name in str(error.value)
    assert file.url in str(error.value)
    assert "--weights PATH" in str(error.value)


def test_the_table():
    assert WEIGHTS["cnn14_16k"] == WeightsFile(
        name="Cnn14_16k_mAP=0.438.pth",
        url="https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
        checksum="md5:362fc5ff18f1d6ad2f6d464b45893f2c",
    )
    whole = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
    for file in WEIGHTS.values():
        assert file.checksum is None or re.fullmatch(whole, file.checksum)
    # The release's file is named after the first digits of its SHA-256.
    assert WEIGHTS["vggish"].checksum.startswith("sha256:10086976")
    assert len({file.name for file in WEIGHTS.values()}) == len(WEIGHTS)


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{SHA256}", f"sha256:{SHA256[:8]}"])
def test_a_download_and_then_the_cache(server, cache, checksum, capfd):
    file = server.file(checksum=checksum)
    path = download(file)
    assert path == cache / file.name
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == [file.name]
    assert download(file) == path
    assert len(server.requests) == 1
    assert capfd.readouterr() == ("", "")


def test_by_the_model_s_name(server, cache, monkeypatch):
    monkeypatch.setattr(weights, "WEIGHTS", {"cnn14_16k": server.file()})
    assert not is_cached("cnn14_16k")
    assert pretrained_path("cnn14_16k").read_bytes() == CONTENT
    assert is_cached("cnn14_16k")


def test_an_unknown_model():
    assert not is_cached("resnet")
    with pytest.raises(WeightsError, match=r"'resnet'.*cnn14_16k.*--weights PATH"):
        pretrained_path("resnet")


def test_the_cache_is_the_user_s_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("FUSION_ENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "fusion_engine"
    folder.mkdir()
    (folder / WEIGHTS["cnn14_8k"].name).touch()
    assert is_cached("cnn14_8k")


def test_a_wrong_checksum_leaves_nothing(server, cache):
    server.content = CONTENT[:-1] + b"?"
    file = server.file()
    with pytest.raises(WeightsError, match=f"expected {MD5}") as error:
        download(file)
    check_advice(error, file)
    assert left_in(cache) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server, cache):
    path = download(server.file())
    path.write_bytes(CONTENT[:1000])
    assert download(server.file()).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_cut_download_is_resumed(server, cache):
    server.cut_after = HALF
    file = server.file()
    with pytest.raises(WeightsError, match="download failed") as error:
        download(file)
    check_advice(error, file)
    assert left_in(cache) == [f"{file.name}.part"]
    kept = (cache / f"{file.name}.part").stat().st_size
    assert HALF - 65_536 <= kept <= HALF

    server.cut_after = None
    assert download(file).read_bytes() == CONTENT
    assert "Range" not in server.requests[0]
    assert server.requests[1]["Range"] == f"bytes={kept}-"
    assert left_in(cache) == [file.name]


def test_a_server_without_ranges_starts_anew(server, cache):
    server.ranges = False
    cache.mkdir()
    (cache / "model=1.pth.part").write_bytes(CONTENT[:HALF])
    assert download(server.file()).read_bytes() == CONTENT
    assert server.requests[0]["Range"] == f"bytes={HALF}-"


def test_a_server_that_sends_another_range_is_refused(server, cache):
    server.shift = 7
    cache.mkdir()
    part = cache / "model=1.pth.part"
    part.write_bytes(CONTENT[:HALF])
    with pytest.raises(WeightsError, match=f"asked for bytes from {HALF} on"):
        download(server.file())
    assert part.read_bytes() == CONTENT[:HALF]


def test_a_part_that_is_whole_already(server, cache):
    """As after a process that ended between the last byte and the rename."""
    cache.mkdir()
    (cache / "model=1.pth.part").write_bytes(CONTENT)
    assert download(server.file()).read_bytes() == CONTENT


def test_a_part_of_another_file_leaves_nothing(server, cache):
    cache.mkdir()
    (cache / "model=1.pth.part").write_bytes(bytes(HALF))
    with pytest.raises(WeightsError, match="checksum"):
        download(server.file())
    assert left_in(cache) == []
    assert download(server.file()).read_bytes() == CONTENT


def test_without_a_checksum_the_first_download_sets_it(server, cache):
    file = server.file(checksum=None)
    cache.mkdir()
    (cache / f"{file.name}.part").write_bytes(bytes(HALF))
    path = download(file)
    assert path.read_bytes() == CONTENT
    assert "Range" not in server.requests[0]
    assert left_in(cache) == [file.name, f"{file.name}.sha256"]
    # The form that `sha256sum --check` reads.
    assert (cache / f"{file.name}.sha256").read_text() == f"{SHA256}  {file.name}\n"

    path.write_bytes(CONTENT[:1000])
    assert download(file).read_bytes() == CONTENT
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(WeightsError, match=f"expected sha256:{SHA256}"):
        download(file)
    assert not path.exists()


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"deadbeef  weights"], ids=repr)
def test_a_record_that_is_no_checksum_is_made_again(server, cache, record):
    file = server.file(checksum=None)
    cache.mkdir()
    (cache / f"{file.name}.sha256").write_bytes(record)
    assert download(file).read_bytes() == CONTENT
    assert (cache / f"{file.name}.sha256").read_text() == f"{SHA256}  {file.name}\n"


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_refusal(server, cache, status):
    server.status = status
    file = server.file()
    with pytest.raises(WeightsError, match=str(status)) as error:
        download(file)
    check_advice(error, file)
    assert left_in(cache) == []
    assert len(server.requests) == 1


def test_a_login_page_is_not_a_checkpoint(server, cache):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="a page"):
        download(server.file(checksum=None))
    assert left_in(cache) == []


def test_nobody_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/model.pth"
    file = WeightsFile(name="model.pth", url=url, checksum=MD5)
    with pytest.raises(WeightsError, match="download failed") as error:
        download(file)
    check_advice(error, file)


def test_offline(server, cache, monkeypatch):
    monkeypatch.setenv("FUSION_ENGINE_OFFLINE", "1")
    file = server.file()
    with pytest.raises(WeightsError, match="FUSION_ENGINE_OFFLINE") as error:
        download(file)
    check_advice(error, file)
    assert not server.requests
    assert not cache.exists()

    monkeypatch.setenv("FUSION_ENGINE_OFFLINE", "0")
    path = download(file)
    monkeypatch.setenv("FUSION_ENGINE_OFFLINE", "1")
    assert download(file) == path
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="FUSION_ENGINE_OFFLINE"):
        download(file)


def test_a_cache_that_cannot_be_written(server, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(cache / "deeper"))
    file = server.file()
    with pytest.raises(WeightsError, match=r"deeper cannot.*FUSION_ENGINE_CACHE") as error:
        download(file)
    check_advice(error, file)
    assert not server.requests
    assert not is_cached("cnn14_16k")


def test_a_full_disk(server, cache):
    cache.mkdir()
    (cache / "model=1.pth.part").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"No space left.*FUSION_ENGINE_CACHE"):
        download(server.file())
    assert not (cache / "model=1.pth").exists()


def start_process(file):
    """Another Python that downloads ``file``; it logs to stderr and prints the path."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from fusion_engine.weights import WeightsFile, download\n"
        f"print(download({file!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_line(stream, words):
    lines = []
    for line in stream:
        lines.append(line)
        if words in line:
            return
    pytest.fail(f"no line with {words!r}, but: {''.join(lines)}")


def test_two_processes_at_once(server, cache):
    server.pause = threading.Event()
    with start_process(server.file()) as first:
        assert server.asked.wait(60)
        with start_process(server.file()) as second:
            wait_for_line(second.stderr, "waiting for another download")
            server.pause.set()
            for process in (first, second):
                assert process.communicate()[0].strip() == str(cache / "model=1.pth")
                assert process.returncode == 0
    assert len(server.requests) == 1
    assert (cache / "model=1.pth").read_bytes() == CONTENT


def test_a_killed_download_is_resumed(server, cache):
    server.pause = threading.Event()
    part = cache / "model=1.pth.part"
    with start_process(server.file()) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 65_536):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = part.stat().st_size
    server.pause.set()
    assert download(server.file()).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == f"bytes={kept}-"


def test_a_bar_on_a_terminal(server, monkeypatch):
    parent, child = os.openpty()
    with os.fdopen(child, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        download(server.file())
        terminal.write("\nend of the output\n")
        terminal.flush()
        shown = b""
        while b"end of the output" not in shown:
            shown += os.read(parent, 65_536)
    os.close(parent)
    assert b"model=1.pth" in shown
