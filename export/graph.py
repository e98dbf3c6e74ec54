"""The ONNX graph of a module: traced by torch, cleaned of what tracing adds."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..engine.masking import mask_frames
from ..engine.network import INPUT
from ..errors import ExportError
from ..spec import METADATA_KEY, Spec
from .foreign import foreign

if TYPE_CHECKING:
    import onnx
    import torch

    from .backbones.base import Backbone, Tensors

# What torch's exporter writes without conversion, and TensorRT 10 and later parse.
OPSET = 18

# Up to here torch before 2.11 counts a convolution's values in 32 bits, and says so of an input
# without a limit; later ones take any length.
_MOST_FRAMES = 2**19 - 1


def trace_graph(module: torch.nn.Module, spec: Spec) -> onnx.ModelProto:
    """An ONNX model of ``module``, with the spec in its metadata.

    The input is ``log_mel`` [batch, 1, frames, n_mels], batch dynamic, and frames as well where
    the spec has no segments, and ``valid_frames`` [batch] where it is masked; the outputs are the
    spec's layers. Initializers carry the names of the
    module's parameters and buffers.
    """
    import torch

    sizes = {0: torch.export.Dim("batch", min=1)}
    frames = spec.max_frames
    if spec.segment is None:
        most = max(spec.max_frames, _MOST_FRAMES)
        sizes[2] = torch.export.Dim("frames", min=spec.min_frames, max=most)
        frames = 2 * spec.min_frames
    example = torch.zeros(2, 1, frames, spec.frontend.n_mels)
    with foreign(f"torch cannot export {spec.model}", _advice(module, spec)), _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[layer.name for layer in spec.layers],
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    assert program is not None  # with dynamo=True torch returns a program
    model = program.model_proto
    _strip(model)
    _check_dynamic(model, sizes)
    if spec.masked:
        mask_frames(model)
    model.graph.name = spec.model
    model.producer_name, model.producer_version = "fusion_engine", __version__
    model.metadata_props.add(key=METADATA_KEY, value=spec.to_json())
    return model


def _advice(module: torch.nn.Module, spec: Spec) -> str:
    """What may be changed about a module that torch cannot export."""
    ways = []
    # Where transformers keeps how attention is computed.
    chosen = {
        getattr(getattr(part, "config", None), "_attn_implementation", None)
        for part in module.modules()
    }
    if chosen - {None, "eager"}:
        ways.append('load the model with attn_implementation="eager"')
    if spec.segment is None:
        ways.append("export it for one length: frames= or seconds= without dynamic_from=")
    text = ", or ".join(ways)
    return text[:1].upper() + text[1:]


def _check_dynamic(model: onnx.ModelProto, axes: Iterable[int]) -> None:
    """torch fixes a size, without a word, when the module's code depends on it."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    for axis in axes:
        if not shape[axis].dim_param:
            name = {0: "batch", 2: "frames"}[axis]
            raise ExportError(
                f"the module's code fixes its number of {name} at {shape[axis].dim_value}. "
                + (
                    "Export it for one length: frames= or seconds= without dynamic_from="
                    if axis == 2
                    else "It must take batches of any size"
                )
            )


def backbone_module(backbone: Backbone, folded: Tensors, layers: Sequence[int]) -> torch.nn.Module:
    """``backbone.forward`` with the tensors as buffers under their own dotted names."""
    import torch

    class Graph(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked
        def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return backbone.forward(dict(self.named_buffers()), log_mel, layers)

    root = Graph()
    for name, tensor in folded.items():
        *parents, leaf = name.split(".")
        module: torch.nn.Module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, tensor)
    return root.eval()


def _strip(model: onnx.ModelProto) -> None:
    """Drop stack traces, paths of this machine and the tracer's notes, in place.

    Inferred shapes of inner values go as well: their symbolic sizes are nested floor divisions,
    which every reader infers by itself.
    """
    graph = model.graph
    del graph.value_info[:]
    parts: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says about itself; warnings about the model pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # Of recurrent networks and normalised weights, which are computed in each pass.
            warnings.filterwarnings("ignore", "The tensor attributes? self", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
