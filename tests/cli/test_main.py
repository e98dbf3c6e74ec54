"""What all commands share: exit status, streams, help, options of the whole program."""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time

import pytest
import typer

import fusion_engine as fe
from fusion_engine.cli import app, export, info

from .conftest import command, write_clip

pytestmark = pytest.mark.heavy

COMMANDS = [
    "export",
    "quantize",
    "build",
    "embed",
    "search",
    "index",
    "map",
    "serve",
    "info",
    "parity",
    "models",
    "doctor",
    "triton",
    "probe",
]
GROUP = typer.main.get_command(app)


def test_the_commands():
    assert list(GROUP.commands) == COMMANDS


def test_the_version(cli):
    result = cli("--version")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == f"fusion-engine {fe.__version__}\n"


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_fits_80_columns_and_is_whole(cli, monkeypatch, name, option):
    monkeypatch.setenv("COLUMNS", "80")
    result = cli(*filter(None, [name, option]))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: fusion-engine {name}".rstrip())
    assert max(map(len, result.stdout.splitlines())) <= 80
    for sign in ("\x1b", "\b", "│", "``", "\\["):
        assert sign not in result.stdout
    command = GROUP.commands[name] if name else GROUP
    for parameter in command.params:
        for option_name in parameter.opts if parameter.param_type_name == "option" else ():
            assert option_name in result.stdout


def test_the_list_of_commands_says_what_each_does(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = cli("--help").stdout.partition("Commands:\n")[2]
    assert "..." not in listed
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", listed, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_help_parse(cli, tmp_path, monkeypatch, name):
    """They run in the tests of their commands."""
    monkeypatch.chdir(tmp_path)
    for example in examples(cli, name):
        assert GROUP.commands[name].make_context(name, example).params


def examples(cli, name):
    """The arguments of each example in a command's help."""
    lines = cli(name, "--help").stdout.splitlines()
    found = [line.strip() for line in lines if line.startswith("    fusion-engine ")]
    start = ["fusion-engine", name]
    assert all(shlex.split(line)[:2] == start for line in found)
    return [shlex.split(line)[2:] for line in found]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Usage: fusion-engine"),
        (["--debug"], "Missing command"),
        (["imbed"], "No such command 'imbed'"),
        (["info"], "Missing argument 'ARTIFACT'"),
        (["info", "a.onnx", "b.onnx"], "(b.onnx)"),
        (["info", "--layers", "3"], "No such option: --layers"),
        (["export", "-o", "a.onnx"], "give a MODEL, or --preset NAME"),
        (["export", "cnn14", "-o", "a.bin"], "a.bin must end in .onnx"),
        (["export", "cnn14", "-o", "a.onnx", "--layers"], "'--layers' requires an argument"),
        (["export", "cnn14", "-o", "a.onnx", "--layers", "x"], "'x' is not a layer's number"),
        (["export", "cnn14", "-o", "a.onnx", "--layers", "3,6"], "by spaces: --layers 3 6"),
        (["export", "cnn14", "-o", "a.onnx", "--seconds", "long"], "'--seconds'"),
        (["export", "cnn14", "-o", "a.onnx", "--seconds", "9", "--frames", "9"], "give one"),
        (["embed", "a.onnx", "-o", "a.csv"], "--from-list, one of the two"),
        (["embed", "a.onnx", "a.wav"], "Missing option '--output' / '-o'"),
        (["embed", "a.onnx", "a.wav", "-o", "a.txt"], ".parquet, .npz, .csv"),
        (["embed", "a.onnx", "a.wav", "-o", "a.csv", "--threads", "0"], "'--threads'"),
        (
            ["embed", "a.onnx", "a.wav", "-o", "a.csv", "--head", "sum"],
            "Invalid value for '--head': 'sum' is not one of",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(cli, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = cli(*args)
    assert (result.status, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_explained_error(cli, tmp_path):
    result = cli("info", tmp_path / "no.onnx")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {tmp_path}/no.onnx: no such file. Write one with `fusion-engine export`.\n"
    )


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_too(cli, tmp_path, place):
    args = ["info", tmp_path / "no.onnx"]
    result = cli("--debug", *args) if place == "before" else cli(*args, "--debug")
    assert result.status == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "fusion_engine.errors.ArtifactError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_after_two_dashes_nothing_is_an_option(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("info", "--", "--debug").stderr.startswith("error: --debug: no such file")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "error: out of memory: an allocation failed\n"),
        (MemoryError("8 GiB"), "error: out of memory: 8 GiB\n"),
        (PermissionError(13, "Permission denied", "a b"), "error: a b: Permission denied\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
    ],
    ids=repr,
)
def test_errors_of_the_system(cli, monkeypatch, error, message):
    monkeypatch.setattr(info, "read_spec", raising(error))
    result = cli("info", "a.onnx")
    assert (result.status, result.stdout, result.stderr) == (1, "", message)


@pytest.mark.parametrize("error", [ValueError("x [red]"), TypeError(), ZeroDivisionError("y")])
def test_a_bug_says_that_it_is_one(cli, monkeypatch, error):
    monkeypatch.setattr(info, "read_spec", raising(error))
    result = cli("info", "a.onnx")
    assert (result.status, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first == f"error: {type(error).__name__}: {error}"
    assert second.startswith("This is a bug in fusion_engine. Run the same command with --debug")
    assert cli("info", "a.onnx", "--debug").stderr.startswith("Traceback")


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_the_log(shell):
    """Warnings always, what was chosen with --verbose; not wrapped, and nothing is markup."""
    long = "[red]" + "x" * 200
    before = f"""
import logging
import fusion_engine as fe
from fusion_engine.cli import info

def read_spec(path):
    logging.getLogger("fusion_engine.test").info("chosen %s", "{long}")
    logging.getLogger("fusion_engine.test").warning("odd %s", "{long}")
    raise fe.ArtifactError("end")

info.read_spec = read_spec
"""
    assert shell("info", "a.onnx", before=before).stderr == f"warning: odd {long}\nerror: end\n"
    for args in (["-v", "info", "a.onnx"], ["info", "a.onnx", "--verbose"]):
        expected = f"info: chosen {long}\nwarning: odd {long}\nerror: end\n"
        assert shell(*args, before=before).stderr == expected


def test_python_m_is_the_command(shell):
    by_module, by_function = shell("models"), shell("models", before="pass")
    assert by_module == by_function
    assert by_module.status == 0


@pytest.mark.parametrize("args", [["models"], ["export", "--help"]], ids=" ".join)
def test_a_closed_pipe(args):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command(*args), stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == b""


def test_a_full_stdout(shell, tmp_path):
    limit = resource.RLIMIT_FSIZE
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            command("models", before=f"import resource; resource.setrlimit({limit}, (10, 10))"),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "error: File too large\n")


def test_a_stdout_that_cannot_show_a_name(shell, cnn14_artifact, tmp_path):
    """Bytes that are no text, and signs that the encoding lacks."""
    name = os.fsdecode(b"caf\xe9 \xe9\x9f\xb3.onnx")
    (tmp_path / name).symlink_to(cnn14_artifact)
    assert "artifact        caf\\udce9 音.onnx\n" in shell("info", name).stdout
    result = shell("info", name, PYTHONIOENCODING="iso-8859-1")
    assert (result.status, result.stderr) == (0, "")
    assert "artifact        caf\\udce9 \\u97f3.onnx\n" in result.stdout


@pytest.mark.heavy
@pytest.mark.parametrize("columns", ["20", "1000"])
def test_the_width_changes_no_value(shell, cnn14_artifact, columns):
    for args in (["info", cnn14_artifact], ["models"], ["doctor"]):
        wrapped, plain = shell(*args, COLUMNS=columns), shell(*args)
        assert wrapped.stdout.split() == plain.stdout.split()
        assert (wrapped.status, wrapped.stderr) == (plain.status, plain.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "then",
    ["raise", "raise ImportError('multiarray failed to import')", "raise SystemError", "pass"],
)
def test_a_signal_while_a_library_is_imported(cnn14_artifact, tmp_path, number, then):
    """The library turns the exception into its own, or drops it."""
    kill = f"os.kill(os.getpid(), {number:d})"
    source = f"import os\ntry:\n    {kill}\nexcept BaseException:\n    {then}\n"
    (tmp_path / "onnxruntime.py").write_text(source)
    write_clip(tmp_path / "a.wav")
    done = subprocess.run(
        command("embed", cnn14_artifact, tmp_path / "a.wav", "-o", tmp_path / "a.csv"),
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.wav"]


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_time(cnn14_artifact, tmp_path, number):
    """From the interpreter's first import to the command's own work."""
    clips = tmp_path / "clips"
    clips.mkdir()
    write_clip(clips / "0.wav")
    for copy in range(1, 2000):
        (clips / f"{copy}.wav").hardlink_to(clips / "0.wav")
    args = command("embed", cnn14_artifact, clips, "-o", tmp_path / "a.csv")
    seen = set()
    for delay in (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3):
        with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(number)
            stderr = process.communicate(timeout=60)[1]
        if "<frozen" in stderr and "fusion_engine" not in stderr:
            continue  # Python itself was starting, and a Ctrl-C there is its own affair
        seen.add(process.returncode)
        assert process.returncode in (128 + number, -number, 0)
        assert "bug" not in stderr
        assert "error: " not in stderr
    assert seen & {128 + number, -number}


def test_layers_are_separated_by_spaces(tmp_path):
    def layers(line):
        return GROUP.commands["export"].make_context("export", shlex.split(line)).params

    for line in (
        "--layers 3 6 cnn14 -o a.onnx",
        "cnn14 --layers 3 6 -o a.onnx",
        "cnn14 -o a.onnx --layers 3 6",
        "cnn14 -o a.onnx --layers 3 --layers 6",
        "cnn14 -o a.onnx --layers=3 6",
        "--layers 3 6 -o a.onnx -- cnn14",
    ):
        params = layers(line)
        assert list(params["layers"]) == [3, 6], line
        assert params["model"] == "cnn14"
    assert list(layers("cnn14 --layers 6 3 -o a.onnx")["layers"]) == [6, 3]
    assert not layers("cnn14 -o a.onnx")["layers"]


def test_importing_the_command_line_loads_nothing_heavy():
    program = "import sys, fusion_engine.cli; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "onnxruntime", "onnx", "pyarrow", "soundfile", "soxr", "pooch"}
    assert export.__name__ in done.stdout.split()
