"""``fusion-engine serve``."""

import math
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from .._words import counted
from ..errors import FusionEngineError
from ._app import app, print_message, settings
from ._artifact import check_weights, find_artifact

_MB = 2**20


@app.command()
def serve(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help="An .onnx or .plan file, or a name that `fusion-engine models` lists.",
        ),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N")] = 8080,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="pretrained|random:SEED|PATH",
            help="Of a name: as for `fusion-engine export`; pretrained by default.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What requests call it; the file's name by default."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, cpu or cuda: a GPU for each replica. Ray chooses which."
        ),
    ] = "auto",
    replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="One for each GPU, or one on CPUs, by default."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="CPU threads of a replica; its share of the cores by default."
        ),
    ] = None,
    min_replicas: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Scale with the load, from N replicas on")
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="and up to N.")
    ] = None,
    autoscaling: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="More of Ray Serve's AutoscalingConfig, as YAML or JSON."
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Clips of one length that are run together.")
    ] = 16,
    batch_wait: Annotated[
        float, typer.Option(min=0, metavar="MS", help="How long a clip waits for others.")
    ] = 5.0,
    max_queued: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests that wait for a replica; then 429.")
    ] = 256,
    max_body: Annotated[
        float, typer.Option(min=0.001, metavar="MB", help="The largest body; then 413.")
    ] = 32.0,
    max_held: Annotated[
        float, typer.Option(min=0.001, metavar="MB", help="Bodies in memory, in all; then 429.")
    ] = 1024.0,
    max_inputs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Recordings in one request; then 413.")
    ] = 64,
    max_audio: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Audio in one request; then 413.")
    ] = 600.0,
    decode_timeout: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="To decode a recording; then 504.")
    ] = 10.0,
    timeout: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="To answer a request; then 504.")
    ] = 60.0,
    drain: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="After SIGTERM, for requests under way."),
    ] = 30.0,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="Of a Ray cluster; without it Ray is started, for this machine alone.",
        ),
    ] = None,
) -> None:
    """Answer requests for embeddings over HTTP, until it is stopped.

    POST /v1/embeddings takes recordings as data URIs in JSON, in the shape of OpenAI's API, or as
    files of a form. GET /v1/models, /healthz and /metrics say what there is and how it does.

    \b
    Examples:
      fusion-engine serve cnn14_3_6.onnx
      fusion-engine serve cnn14_3_6.onnx --replicas 4 --threads 2 --port 8080
      fusion-engine serve cnn14_3_6.plan --device cuda --max-replicas 8
      fusion-engine serve /data/cnn14_3_6.onnx --address auto --host 0.0.0.0
      curl -F file=@call.wav http://127.0.0.1:8080/v1/embeddings
    """
    from ..serve import Batching, Limits, application
    from ..serve.server import check_free, connected, serving

    check_weights(artifact, weights)
    scaling = _autoscaling(min_replicas, max_replicas, autoscaling)
    if scaling is not None and replicas is not None:
        raise typer.BadParameter(
            "--replicas is a fixed number: leave it or the autoscaling out",
            param_hint="'--replicas'",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(
            f"{device!r}: Ray chooses the GPU, expected auto, cpu or cuda", param_hint="'--device'"
        )
    limits = Limits(
        body_bytes=round(max_body * _MB),
        inputs=max_inputs,
        audio_seconds=max_audio,
        decode_seconds=decode_timeout,
        request_seconds=timeout,
        held_bytes=round(max_held * _MB),
        queued=max_queued,
    )
    # No wait at all is still a turn of the event loop.
    batching = Batching(clips=max_batch, wait_seconds=max(batch_wait, 0.001) / 1e3)
    if address is None:
        check_free(host, port)
    path = find_artifact(artifact, weights)
    with connected(address) as nodes:
        on_gpu = device == "cuda" or (device == "auto" and any(node.gpus for node in nodes))
        units = sum(node.gpus for node in nodes) if on_gpu else 1
        most = (scaling or {}).get("max_replicas", replicas or max(1, units))
        if threads is None:
            threads = _share(nodes, most)
        if address is None:
            _check_room(nodes, on_gpu, most, threads)
        service = application(
            path,
            model=model,
            device="cuda" if on_gpu else "cpu",
            threads=threads,
            replicas=most,
            autoscaling=scaling,
            limits=limits,
            batching=batching,
            drain_seconds=drain,
        )
        with serving(
            service, host=host, port=port, timeout=timeout, address=address
        ) as start_drain:
            what = "a GPU" if on_gpu else counted(threads, "thread")
            print_message(
                f"http://{host}:{port}/v1/embeddings: {counted(most, 'replica')}"
                f"{' at most' if scaling else ''} with {what} each; Ctrl-C or SIGTERM stops it"
            )
            _wait_for_signal()
            print_message("no more requests; waiting for those under way")
            left = start_drain(drain)
    if left:
        print_message(f"{counted(left, 'request')} had no answer after {drain:g} s")
        raise typer.Exit(1)
    print_message("stopped")


def _autoscaling(least: int | None, most: int | None, file: Path | None) -> dict[str, Any] | None:
    """The options, or None where the number of replicas is fixed.

    Raises:
        BadParameter: the file holds none.
    """
    if least is None and most is None and file is None:
        return None
    options: dict[str, Any] = {}
    if file is not None:
        import yaml  # Ray needs it too

        try:
            options = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{file}: {error}", param_hint="'--autoscaling'") from error
        if not isinstance(options, dict):
            raise typer.BadParameter(
                f"{file} holds no mapping, expected min_replicas: 1 and such lines",
                param_hint="'--autoscaling'",
            )
    options |= {
        name: value
        for name, value in (("min_replicas", least), ("max_replicas", most))
        if value is not None
    }
    options.setdefault("max_replicas", max(1, options.get("min_replicas", 1)))
    return options


def _share(nodes: list[Any], replicas: int) -> int:
    """CPUs of a replica, where they are spread over the nodes."""
    on_one = math.ceil(replicas / max(1, len(nodes)))
    return max(1, max((node.cpus for node in nodes), default=1) // on_one)


def _check_room(nodes: list[Any], on_gpu: bool, replicas: int, threads: int) -> None:
    """Refuse what Ray would wait for without end.

    Raises:
        FusionEngineError: there are not so many CPUs or GPUs.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if on_gpu and replicas > gpus:
        raise FusionEngineError(
            f"{counted(replicas, 'replica')} with a GPU each, and there are {gpus}: give fewer "
            "--replicas, or --device cpu"
        )
    if replicas * threads > cpus:
        raise FusionEngineError(
            f"{counted(replicas, 'replica')} with {counted(threads, 'thread')} each, and this "
            f"process may use {counted(cpus, 'CPU')}: give fewer --replicas or --threads"
        )


def _wait_for_signal() -> None:
    """Until SIGTERM or SIGINT; a second one ends the program at once."""
    stop, before = threading.Event(), dict[int, Any]()

    def stopped(number: int, _: Any) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Ray has put its own there, which end its processes at once.
        before[number] = signal.signal(number, stopped)
    if settings.stopped is None:
        stop.wait()
