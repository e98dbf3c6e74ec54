"""A service as a user starts it, in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import requests

# Of a machine where much else runs.
PATIENCE = 120.0


class Service:
    """``fusion-engine serve`` on a port of its own, with Ray's files in a folder of its own.

    Args:
        artifact: what it serves.
        folder: for Ray, with a short path: sockets are in it.
        options: of the command.
    """

    def __init__(self, artifact, folder, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = Path(folder) / "service.log"
        command = [sys.executable, "-m", "fusion_engine", "serve", os.fspath(artifact)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *map(str, options)],
                env=os.environ | {"RAY_TMPDIR": os.fspath(folder), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, replicas):
        """Until so many replicas can answer."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                health = requests.get(f"{self.address}/healthz", timeout=10)
                if health.status_code == 200 and health.json()["replicas"] >= replicas:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        raise AssertionError(f"not ready after {PATIENCE} s: {self.log.read_text()}")

    def ask(self, **request):
        """A POST for embeddings."""
        return requests.post(f"{self.address}/v1/embeddings", timeout=PATIENCE, **request)

    def processes(self):
        """Names of all processes below this one, by their ids."""
        parents, names = {}, {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    status = (folder / "stat").read_text()
                    names[int(folder.name)] = (folder / "cmdline").read_text().split("\0")[0]
                except OSError:
                    continue
                parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: names[pid] for pid in found if pid in names}

    def replicas(self):
        """Ids of the processes that embed."""
        return [pid for pid, name in self.processes().items() if ":Embedder" in name]

    def listening(self):
        """Addresses, in hex, and ports on which its processes listen."""
        inodes = set()
        for pid in self.processes():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(str(link.readlink()))
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    address, port = fields[1].split(":")
                    yield address, int(port, 16)

    def stop(self):
        """End it as a supervisor would; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self):
        """Whatever became of it, nothing of it is left."""
        left = self.processes()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in left.keys() - {self.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
