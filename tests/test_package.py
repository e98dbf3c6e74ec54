"""What is packaged, what an import costs, and what the README promises."""

import ast
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import typer

import fusion_engine as fe
from fusion_engine import _core
from fusion_engine.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAVY = {"torch", "onnxruntime", "tensorrt", "onnx", "pyarrow", "soundfile", "soxr", "pooch"}


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """The sdist, and the wheel built from it, with what the test environment holds."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        # Not optimised, which takes a third of the time.
        [
            *(sys.executable, "-m", "build", "--no-isolation", "-C", "cmake.build-type=None"),
            *("--outdir", folder, ROOT),
        ],
        env=os.environ | {"FUSION_ENGINE_CUDA": "OFF"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="session")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", folder, wheel], check=True)
    return folder


@pytest.fixture(scope="session")
def in_wheel(installed, tmp_path_factory):
    """Runs a program on the installed wheel and gives what it prints."""

    def run(*args):
        done = subprocess.run(
            args,
            cwd=tmp_path_factory.mktemp("cwd"),
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def sources():
    """Every file of the package, by its place in the wheel."""
    parts = {"": "python/fusion_engine", "export/": "export", "engine/": "engine"}
    return {
        f"fusion_engine/{prefix}{path.relative_to(ROOT / folder)}"
        for prefix, folder in parts.items()
        for suffix in ("*.py", "*.pyi", "*.json", "py.typed", "assets/*")
        for path in (ROOT / folder).rglob(suffix)
    }


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    (native,) = (name for name in names if name.endswith(".so"))
    assert re.fullmatch(r"fusion_engine/_core\.[\w-]+\.so", native)
    assert {name for name in names if ".dist-info/" not in name} == sources() | {native}
    for expected in ("export/__init__.py", "engine/__init__.py", "py.typed", "_core.pyi"):
        assert f"fusion_engine/{expected}" in names
    info = {name.partition(".dist-info/")[2] for name in names} - {""}
    licences = {"LICENSE", "licences/pybind11.txt"}
    licences.add("python/fusion_engine/map/assets/licences.txt")
    files = {"METADATA", "WHEEL", "RECORD", "entry_points.txt"}
    assert info == files | {f"licenses/{path}" for path in licences}


def test_the_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert "fusion-engine = fusion_engine.__main__:main" in archive.read(name).decode()
    assert metadata["Version"] == fe.__version__
    assert metadata["License-Expression"] == "Apache-2.0 AND BSD-3-Clause AND MIT AND ISC"
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    needed = {re.match(r"[\w.-]+", line).group().lower() for line in always}
    assert {"numpy", "onnx", "soundfile", "soxr", "pyarrow", "pooch", "typer", "rich"} <= needed
    assert not needed & {"torch", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt"}
    assert {"cpu", "export", "test"} <= set(metadata.get_all("Provides-Extra"))


def test_the_sdist_is_whole(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CMakeLists.txt", "csrc/bindings/module.cpp"} <= names
    assert {"tests/test_package.py", "examples/demo.py", "examples/bell.wav"} <= names
    assert "web/build.mjs" in names
    assert not [name for name in names if "node_modules" in name]
    assert not [name for name in names if name.endswith((".so", ".onnx", ".pth", ".pyc"))]


WALK = """
import importlib, json, pkgutil, sys
import fusion_engine
names = [m.name for m in pkgutil.walk_packages(fusion_engine.__path__, "fusion_engine.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules), fusion_engine.__file__]))
"""


def test_every_module_of_the_wheel_imports(in_wheel, installed):
    names, loaded, file = json.loads(in_wheel(sys.executable, "-W", "error", "-c", WALK))
    assert Path(file).parent == installed / "fusion_engine"
    modules = {name for name in sources() if name.endswith(".py")}
    expected = {name[:-3].replace("/", ".").removesuffix(".__init__") for name in modules}
    assert {*names, "fusion_engine"} == expected | {"fusion_engine._core"}
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_importing_the_package_loads_nothing_heavy(in_wheel):
    code = "import json, sys, fusion_engine; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(in_wheel(sys.executable, "-W", "error", "-c", code))
    tops = {name.partition(".")[0] for name in loaded}
    assert not tops & (HEAVY | {"typer", "rich", "numpy"})


def test_the_command_of_the_wheel(in_wheel, installed):
    script = installed / "bin" / "fusion-engine"
    assert in_wheel(script, "--version") == f"fusion-engine {fe.__version__}\n"
    help_of_script = in_wheel(script, "export", "--help")
    help_of_module = in_wheel(sys.executable, "-m", "fusion_engine", "export", "--help")
    assert help_of_script == help_of_module.replace("python -m fusion_engine", "fusion-engine")


def test_one_version(in_wheel):
    code = "import fusion_engine as fe; print(fe.__version__, fe._core.__version__)"
    code = f"import fusion_engine._core; {code}"
    assert in_wheel(sys.executable, "-c", code).split() == [fe.__version__] * 2
    code = "from importlib.metadata import version; print(version('audio-fusion-engine'))"
    assert in_wheel(sys.executable, "-c", code).strip() == fe.__version__
    assert _core.__version__ == fe.__version__


def test_the_public_names():
    assert len(fe.__all__) == len(set(fe.__all__))
    assert dir(fe) == sorted(fe.__all__)
    for name in fe.__all__:
        assert getattr(fe, name) is not None
    errors = {name for name, value in vars(fe.errors).items() if inspect.isclass(value)}
    assert errors <= set(fe.__all__)
    for name in errors - {"FusionEngineError"}:
        assert issubclass(getattr(fe, name), fe.FusionEngineError)
    # The name of the function that exports is its subpackage's.
    assert inspect.ismodule(importlib.import_module("fusion_engine.export"))
    assert inspect.ismodule(fe.export)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        fe.Engin  # noqa: B018


def test_one_version_of_the_formatters():
    """What formats otherwise in the hooks would be undone by ``make lint``."""
    pinned = dict(
        re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    hooks = re.findall(r"\[([\w-]+)==(.+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert {name for name, _ in hooks} == {"ruff", "clang-format"}
    for name, version in hooks:
        assert pinned[name] == version


def code_blocks(language):
    """Indented blocks of the README without a language, fenced ones with it."""
    if language:
        return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ {4}.*$", README, re.MULTILINE)


def test_readme_python():
    """Names, methods and keywords of the examples exist."""
    (block,) = code_blocks("python")
    tree = ast.parse(block)
    objects = {"fe": fe, "engine": fe.Engine}
    checked = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert hasattr(objects[node.value.id], node.attr), node.attr
            checked += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = getattr(objects[node.func.value.id], node.func.attr)
            accepted = inspect.signature(called).parameters
            assert {keyword.arg for keyword in node.keywords} <= set(accepted)
    assert checked >= 5


def readme_commands():
    """Each command line of the README: in blocks as it is typed, in the text and tables not."""
    lines = (line.strip().removeprefix("$ ") for line in code_blocks(""))
    typed = [line for line in lines if line.startswith("fusion-engine ")]
    shown = re.findall(r"`(fusion-engine [^`]+)`", README)
    return typed, [line.replace("\\|", "|") for line in shown]


def test_readme_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = typer.main.get_command(app).commands
    typed, shown = readme_commands()
    assert typed
    for line in typed:
        program, *args = shlex.split(line, comments=True)
        assert program == "fusion-engine"
        command, args = find_command(commands, args)
        command.make_context(command.name, args)
    for line in shown:
        command, _ = find_command(commands, line.split()[1:])
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--?[a-z]+", line)) <= options, line
    assert {line.split()[1] for line in shown} >= set(commands)


def find_command(commands, args):
    """The command that ``args`` begin with, in a group or not, and the rest of them."""
    command, *args = commands[args[0]], *args[1:]
    inner = getattr(command, "commands", {})
    return (inner[args[0]], args[1:]) if args and args[0] in inner else (command, args)
