"""What is refused before a cluster does anything."""

import importlib.util
import subprocess
import sys

import pytest
import typer

import fusion_engine as fe
from fusion_engine.ray import embed, write
from fusion_engine.ray.library import import_ray

from ..cli.in_process import run_command

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(fe.BackendError, match=r"Ray Data.*\.\[ray\]"):
        import_ray()
    with pytest.raises(fe.BackendError, match=r"\.\[ray\]"):
        embed("recordings", "cnn14.onnx")


def test_importing_the_module_does_not_import_ray():
    code = "import sys, fusion_engine.ray, fusion_engine.cli; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@needs_ray
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"errors": "ignore"}, "errors is 'ignore'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_cpus": 0}, "num_cpus is 0"),
        ({"num_gpus": -0.5}, "num_gpus is -0.5"),
    ],
)
def test_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        embed("recordings", "cnn14.onnx", **wrong)


@needs_ray
def test_nothing_to_embed(tmp_path):
    with pytest.raises(fe.AudioError, match="no audio in this folder"):
        embed(tmp_path, "cnn14.onnx")
    with pytest.raises(fe.AudioError, match="no files and folders"):
        embed([], "cnn14.onnx")


@needs_ray
def test_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(fe.FusionEngineError, match="expected a new or an empty folder"):
        write(None, tmp_path)
    with pytest.raises(fe.FusionEngineError, match="expected a new or an empty folder"):
        write(None, tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="rows_per_file is 0"):
        write(None, tmp_path, rows_per_file=0)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.parquet"], "expected FOLDER/"),
        (["-o", "out/", "--fresh"], "no use for --fresh"),
        (["-o", "out/", "--overwrite"], "no use for --overwrite"),
        (["-o", "out/", "--dry-run"], "no use for --dry-run"),
        (["-o", "out/", "--shard", "1/1"], "no use for --shard"),
        (["-o", "out/", "--device", "cuda:1"], "Ray chooses the GPU"),
    ],
)
def test_options_that_do_not_go_with_a_cluster(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").touch()
    arguments = ["embed", "cnn14.onnx", "a.wav", "--ray", "auto", *options]
    with pytest.raises(typer.BadParameter, match=message):
        run_command(*arguments)
