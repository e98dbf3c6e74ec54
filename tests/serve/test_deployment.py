"""What is refused before a service starts, and what Ray Serve is told."""

import importlib.util
import socket
import subprocess
import sys

import pytest
import typer

import fusion_engine as fe
from fusion_engine.serve import Batching, Limits, application
from fusion_engine.serve.library import import_serve
from fusion_engine.serve.server import check_free

from ..cli.in_process import run_command

# Ray's own, of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
needs_serve = pytest.mark.skipif(
    importlib.util.find_spec("fastapi") is None, reason="Ray Serve is not installed"
)


def deployments(app):
    """Front and embedder of an application."""
    front = app._bound_deployment
    return front, front.init_args[0]._bound_deployment


def test_without_ray_serve_the_error_says_what_to_install(monkeypatch, cnn14_artifact):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(fe.BackendError, match=r"Ray Serve.*\.\[serve\]"):
        import_serve()
    with pytest.raises(fe.BackendError, match=r"\.\[serve\]"):
        application(cnn14_artifact)


def test_importing_the_module_does_not_import_ray():
    code = "import sys, fusion_engine.serve, fusion_engine.cli; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@needs_serve
def test_replicas_and_their_share(cnn14_artifact):
    limits, batching = Limits(queued=9), Batching(clips=8)
    app = application(cnn14_artifact, replicas=3, threads=2, limits=limits, batching=batching)
    front, embedder = deployments(app)
    assert front.num_replicas == 1
    assert front.init_args[1].name == "cnn14_1"
    assert embedder.num_replicas == 3
    assert embedder.max_ongoing_requests == 16
    assert embedder.max_queued_requests == 9
    assert embedder.ray_actor_options["num_cpus"] == 2
    assert embedder.init_kwargs["threads"] == 2
    _, on_gpu = deployments(application(cnn14_artifact, device="cuda", model="birds"))
    assert on_gpu.ray_actor_options["num_gpus"] == 1
    assert on_gpu.init_args[1] == "birds"


@needs_serve
def test_autoscaling_options_go_to_ray(cnn14_artifact):
    wanted = {"min_replicas": 0, "max_replicas": 4, "upscale_delay_s": 7.0}
    _, embedder = deployments(application(cnn14_artifact, autoscaling=wanted))
    got = embedder._deployment_config.autoscaling_config
    assert (got.min_replicas, got.max_replicas, got.upscale_delay_s) == (0, 4, 7.0)
    assert got.target_ongoing_requests == Batching().clips
    wanted["target_ongoing_requests"] = 3
    _, embedder = deployments(application(cnn14_artifact, autoscaling=wanted))
    assert embedder._deployment_config.autoscaling_config.target_ongoing_requests == 3


@needs_serve
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"replicas": 0}, "replicas is 0"),
        ({"device": "cuda:1"}, "Ray chooses the GPU"),
        ({"autoscaling": {"max_replica": 2}}, "no option 'max_replica'"),
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "max_replicas"),
    ],
)
def test_arguments(wrong, message, cnn14_artifact):
    with pytest.raises(ValueError, match=message):
        application(cnn14_artifact, **wrong)


@needs_serve
def test_an_artifact_that_is_none(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(fe.ArtifactError, match="no ONNX file"):
        application(tmp_path / "a.onnx")


@pytest.mark.parametrize("wrong", [{"body_bytes": 0}, {"audio_seconds": -1.0}])
def test_limits_out_of_range(wrong):
    with pytest.raises(ValueError, match="expected more than 0"):
        Limits(**wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda:0"], "Ray chooses the GPU"),
        (["--replicas", "2", "--max-replicas", "3"], "leave it or the autoscaling out"),
        (["--weights", "random:0"], "leave --weights out"),
        (["--autoscaling", "list.yaml"], "holds no mapping"),
        (["--autoscaling", "broken.yaml"], "broken.yaml"),
    ],
)
@needs_serve
def test_options_that_do_not_go_together(options, message, cnn14_artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(typer.BadParameter, match=message):
        run_command("serve", cnn14_artifact, *options)


def test_a_port_that_is_taken(cnn14_artifact):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(fe.FusionEngineError, match=f"127.0.0.1:{port}.*in use.*--port"):
            run_command("serve", cnn14_artifact, "--port", str(port))
    check_free("127.0.0.1", port)
    with pytest.raises(fe.FusionEngineError, match=r"cannot listen on 192\.0\.2\.77"):
        check_free("192.0.2.77", port)
