"""The images' Dockerfiles are linted, and what they run is run."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
names = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


@names
def test_hadolint_finds_nothing(path):
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    result = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@names
def test_what_is_run_is_in_scripts(path):
    """Beside packages of the system and a user: so that this file's last test runs all of it."""
    text = path.read_text().replace("\\\n", " ")
    commands = [
        command.split()
        for line in re.findall(r"^RUN (?:--mount=\S+ )?(.*)", text, re.MULTILINE)
        for command in line.split("&&")
    ]
    programs = [Path(words[0]).name for words in commands]
    system = {"apt-get", "rm", "useradd", "install"}
    assert [name for name in programs if name not in system] == [
        "wheel.sh",
        "install-fusion-engine",
    ]
    assert "COPY docker/install.sh /usr/local/bin/install-fusion-engine" in text


def context(target):
    """What .dockerignore lets through: a list of what is not ignored, after all else."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    for line in lines[1:]:
        if not line.startswith("!"):
            assert line == "**/__pycache__"
            continue
        path = ROOT / line[1:]
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=lambda *_: {"__pycache__"})
        else:
            shutil.copy(path, target)


@pytest.mark.slow
def test_the_steps_of_the_image_for_a_cpu(tmp_path):
    source, wheels, venv = (tmp_path / name for name in ("source", "wheels", "venv"))
    source.mkdir()
    context(source)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "FUSION_ENGINE_CUDA": "OFF",
        "PYTHON": sys.executable,
    }
    run = {"check": True, "env": environment, "cwd": tmp_path}
    subprocess.run([source / "docker" / "wheel.sh", source, wheels], **run)
    subprocess.run([source / "docker" / "install.sh", wheels, "cpu", venv], **run)
    smoke = [venv / "bin" / "python", "-m", "tests.smoke"]
    result = subprocess.run(smoke, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert str(venv).encode() in result.stdout
