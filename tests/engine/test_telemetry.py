"""ONNX Runtime does not report home."""

import os
import shutil
import subprocess
import sys

import pytest

from .cuda.artifacts import CHUNKED, write_artifact

# In place of the C library's resolver: notes the name and finds no host.
RESOLVER = r"""
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    int file = open(getenv("LOOKUPS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (name && write(file, name, strlen(name)) > 0 && write(file, "\n", 1) > 0) close(file);
    return EAI_NONAME;
}
"""
PROGRAM = """
import sys, time
import numpy as np
import fusion_engine as fe
engine = fe.Engine(sys.argv[1], device="cpu")
engine.embed(np.zeros(16_000, np.float32))
time.sleep(float(sys.argv[2]))
"""


def run(tmp_path, seconds, **environment):
    """Files under a fresh HOME, and names looked up, of a process that embeds and then waits."""
    home, lookups = tmp_path / "home", tmp_path / "lookups"
    home.mkdir()
    path = write_artifact(tmp_path / "a.onnx", CHUNKED)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(seconds)],
        env=kept | {"HOME": str(home), "LOOKUPS": str(lookups)} | environment,
        check=True,
        timeout=120,
    )
    names = lookups.read_text().split() if lookups.exists() else []
    return [file for file in home.rglob("*") if file.is_file()], names


def test_nothing_is_written_into_the_users_cache(tmp_path):
    """Without the switch, a device ID and a store of events are there after a second."""
    assert run(tmp_path, 2)[0] == []


def test_what_the_user_set_stays(monkeypatch):
    from fusion_engine.engine.onnx import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.slow
def test_no_host_is_looked_up(tmp_path):
    """Without the switch the first look-up comes after 9 s."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed, as for the package itself"
    (tmp_path / "resolver.c").write_text(RESOLVER)
    library = tmp_path / "resolver.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "resolver.c")]
    subprocess.run(command, check=True)
    assert run(tmp_path, 13, LD_PRELOAD=str(library)) == ([], [])
