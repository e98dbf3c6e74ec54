"""From an `.onnx` artifact to a plan: parse, set, build, write."""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from ..._atomic import atomic_path
from ...artifact import read_report, read_spec, takes_samples
from ...errors import ArtifactError, BackendError
from ...spec import Spec
from ..devices import GpuInfo, find_gpu
from ..masking import mask_frames, masked
from ..network_input import LOG_MEL, NetworkInput
from ..precision import Precision, check_ranges, cut_frontend_part, typed_model
from .monitor import BuildProgress, run_cancellable
from .network_name import encode_name, plan_spec
from .plan_file import PlanInfo, read_plan
from .profile import make_profile, profiles_of
from .serialize import BuildOptions, serialize
from .sidecar import Sidecar, SourceArtifact, Tiling, sidecar_path, this_system, write_sidecar
from .targets import check_targets, library_for, plan_targets

logger = logging.getLogger(__name__)

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TILINGS: tuple[Tiling, ...] = get_args(Tiling)
DEFAULT_EFFORT = 3
EFFORTS = range(6)


def build(
    onnx: str | os.PathLike[str],
    plan: str | os.PathLike[str],
    *,
    runtime: str | None = None,
    precision: Precision = "fp16",
    batch: tuple[int, int, int] | None = None,
    seconds: tuple[float, float, float] | None = None,
    frames: tuple[int, int, int] | None = None,
    static_profile: bool = True,
    effort: int = DEFAULT_EFFORT,
    tiling: Tiling = "none",
    targets: Sequence[str] | None = None,
    linear_outputs: bool = False,
    log_mel_input: bool = False,
    ragged: bool = False,
    typed_onnx: str | os.PathLike[str] | None = None,
    gpu: GpuInfo | None = None,
    progress: BuildProgress | None = None,
) -> PlanInfo:
    """Build a TensorRT plan, a plain serialized engine, with its sidecar ``PLAN.json``.

    `tensorrt` tunes for a GPU and needs it; `tensorrt_rtx` needs none. Networks are strongly typed,
    and TF32 is off unless it is the precision. Neither file appears on an error.

    Args:
        onnx: the artifact, in FP32 or 8 bits.
        plan: the ``.plan`` file to write.
        runtime: ``tensorrt`` or ``tensorrt_rtx``; ``None``: what is installed and serves the GPU
            that is here, which is logged.
        precision: type of the arithmetic; of an 8-bit artifact, of the rest.
        batch, seconds, frames: smallest, most common and largest input, see ``make_profile``.
            Activation memory follows the largest.
        static_profile: give the most common input an optimization profile of its own.
        effort: TensorRT's builder optimization level, 0 to 5.
        tiling: TensorRT's tiling optimization level: ``none``, ``fast``, ``moderate``, ``full``.
        targets: `tensorrt_rtx`: the compute capabilities to build for, such as ``("8.6", "8.9")``,
            whatever GPU is here. ``None``: 8.0 and later ones, or 7.5 where the GPU is of that.
        linear_outputs: keep FP16 and BF16 maps NCHW; otherwise they are NHWC, as the layer-fusion
            kernel reads them without a reformat.
        log_mel_input: take log-mel in FP32; otherwise an FP16 or BF16 plan begins with its first
            convolution, and the frontend does what comes before it (see ``NetworkInput``).
        ragged: let clips of different lengths share a batch, as an artifact of ``export`` with
            ``ragged`` does by itself.
        typed_onnx: where to keep the typed graph of an FP16 or BF16 plan, for other tools.
        gpu: the GPU that `tensorrt` tunes for; ``None``: the first, if there is one.
        progress: called as TensorRT goes through its phases.

    Returns:
        The plan as it was read back.

    Raises:
        ArtifactError: the artifact is missing, damaged, or in FP16 or BF16 already.
        BackendError: the library or its GPU is missing, the GPU that is here is none of the
            library's, or the parser or the builder failed; with their own messages.
        NumericalError: weights or activations, as recorded at export, that FP16 cannot hold.
        ExportError: ``ragged`` of a model that has no use for it, or cannot be masked.
        FusionEngineError: a file cannot be written.
        ValueError: an option out of range, or a profile that does not fit the model.
    """
    plan = _plan_path(plan)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {list(PRECISIONS)}")
    if effort not in EFFORTS:
        raise ValueError(f"effort is {effort}, expected 0 to 5")
    if tiling not in TILINGS:
        raise ValueError(f"tiling is {tiling!r}, expected one of {list(TILINGS)}")
    if targets is not None:
        if runtime == "tensorrt":
            raise ValueError("tensorrt builds for the GPU that is here: leave targets out")
        check_targets(targets)
        runtime = runtime or "tensorrt_rtx"
    if typed_onnx is not None and precision in ("fp32", "tf32"):
        raise ValueError(f"precision {precision} has no typed graph: the artifact is the one")
    if typed_onnx is not None and Path(typed_onnx).suffix != ".onnx":
        raise ValueError(
            f"typed_onnx is {os.fspath(typed_onnx)!r}, expected a name that ends in .onnx"
        )
    if typed_onnx is not None and os.path.realpath(typed_onnx) == os.path.realpath(onnx):
        raise ValueError(f"typed_onnx is {os.fspath(typed_onnx)!r}, the artifact itself")
    spec = read_spec(onnx)
    if takes_samples(onnx):
        raise ArtifactError(
            f"{onnx}: a waveform artifact, and a plan is built from log-mel on: build it from what "
            "`fusion-engine export` writes without --waveform"
        )
    if spec.precision != "fp32" and spec.quantization is None:
        raise ArtifactError(
            f"{onnx}: its precision is {spec.precision}; build from the fp32 artifact that "
            "`fusion-engine export` wrote"
        )
    add_mask = ragged and not spec.masked
    if add_mask and spec.quantization is not None:
        raise ArtifactError(
            f"{onnx}: a mask between its 8 bits would undo them; export with --ragged, and "
            "quantize that"
        )
    if add_mask:
        spec = masked(spec)
    profile = make_profile(spec, batch=batch, seconds=seconds, frames=frames)
    spec = plan_spec(spec, precision, profile.frames.max)
    encode_name(spec)  # refuses a spec that is too long before the work
    gpu = gpu or _gpu_here()
    library = library_for(
        gpu if targets is None else None,
        runtime,
        otherwise=". To build for other GPUs, name their compute capabilities: --targets 8.6,8.9",
    )
    if not library.is_rtx:
        gpu = gpu or find_gpu()  # says why there is none
    built_for = plan_targets(library, gpu, targets)
    gpu = None if library.is_rtx else gpu  # it is built without one
    with ExitStack() as stack:
        # Entered first, so that they appear last: see the end of this block.
        typed = None if typed_onnx is None else stack.enter_context(atomic_path(typed_onnx))
        beside = stack.enter_context(atomic_path(sidecar_path(plan)))
        temporary = stack.enter_context(atomic_path(plan))
        # Read once: a later export, while this works for minutes, is not what it was built from.
        data = Path(onnx).read_bytes()
        source = SourceArtifact(name=Path(onnx).name, sha256=hashlib.sha256(data).hexdigest())
        graph = _typed_graph(onnx, data, precision, add_mask)
        if typed is not None:
            typed.write_bytes(graph)
        network_input = LOG_MEL
        if precision in ("fp16", "bf16") and not log_mel_input:
            graph, network_input = _without_frontend_part(graph, spec)
        options = BuildOptions(
            precision=precision,
            profiles=profiles_of(profile, static=static_profile),
            targets=built_for,
            effort=effort,
            tiling=tiling,
            linear_outputs=linear_outputs,
            network_input=network_input,
        )
        try:
            result = run_cancellable(
                lambda cancelled: serialize(
                    graph,
                    spec,
                    options,
                    library=library,
                    gpu=gpu,
                    cancelled=cancelled,
                    progress=progress,
                )
            )
        except BackendError as error:
            raise BackendError(f"{onnx}: {error}") from error
        temporary.write_bytes(result.plan)
        sidecar = Sidecar(
            sha256=hashlib.sha256(result.plan).hexdigest(),
            bytes=len(result.plan),
            runtime=library.runtime,
            runtime_version=library.version,
            gpu=None if gpu is None else gpu.name,
            compute_capability=None if gpu is None else gpu.capability,
            targets=built_for,
            system=this_system(),
            profiles=options.profiles,
            effort=effort,
            tiling=tiling,
            linear_outputs=linear_outputs,
            input=network_input,
            tensors=result.tensors,
            activation_bytes=result.activation_bytes,
            source=source,
            spec=spec,
        )
        write_sidecar(beside, sidecar)
        # The old sidecar goes, then the plan changes, then the new one comes: wherever that is
        # cut short, no sidecar is beside a plan that it does not describe. Links are followed.
        Path(os.path.realpath(sidecar_path(plan))).unlink(missing_ok=True)
    info = read_plan(plan)
    logger.info("%s: %d bytes, built in %.1f s", plan, sidecar.bytes, result.seconds)
    return info


def _gpu_here() -> GpuInfo | None:
    """The first GPU; ``None`` where there is none, or nothing to ask."""
    try:
        return find_gpu()
    except BackendError:
        return None


def _plan_path(plan: str | os.PathLike[str]) -> Path:
    path = Path(plan)
    if path.suffix != ".plan":
        raise ValueError(f"plan is {os.fspath(path)!r}, expected a name that ends in .plan")
    return path


def _typed_graph(
    artifact: str | os.PathLike[str], data: bytes, precision: Precision, add_mask: bool
) -> bytes:
    """The graph of an artifact's ``data`` in the precision's types, serialized."""
    import onnx

    half = precision in ("fp16", "bf16")
    if not (half or add_mask):
        return data
    if half:
        _check_activations(artifact, precision)
    try:
        model = onnx.load_model_from_string(data)
        if add_mask:
            mask_frames(model)
        typed: bytes = typed_model(model, precision).SerializeToString()
    except (KeyError, TypeError, ValueError) as error:
        # Names that lead nowhere or are no text, sizes that do not fit: what reads a graph with the
        # onnx package trips over them.
        raise ArtifactError(
            f"{artifact}: its graph is damaged ({error!r}). Export it again with "
            "`fusion-engine export`."
        ) from error
    return typed


def _without_frontend_part(graph: bytes, spec: Spec) -> tuple[bytes, NetworkInput]:
    """A typed graph from where the frontend can end, if the plan's name has room to say so."""
    import onnx

    model = onnx.load_model_from_string(graph)
    network_input = cut_frontend_part(model)
    try:
        encode_name(spec, network_input)
    except ArtifactError:
        return graph, LOG_MEL
    return model.SerializeToString(), network_input


def _check_activations(artifact: str | os.PathLike[str], precision: Precision) -> None:
    """Warn of activations that FP16 may not hold, and refuse those that it cannot."""
    report = read_report(artifact) or {}
    activations = report.get("activations")
    if activations is not None:
        for warning in check_ranges(activations, precision):
            logger.warning("%s: %s", artifact, warning)
    elif precision == "fp16":
        logger.warning(
            "%s: no activation ranges were recorded at its export, so that nobody knows whether "
            "they fit FP16 (65504). Export it again, or build with --precision bf16",
            artifact,
        )
