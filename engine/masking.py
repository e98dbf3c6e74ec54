"""The mask by which clips of different lengths run as one batch, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExportError
from ..spec import Spec
from .network import INPUT, VALID_FRAMES

if TYPE_CHECKING:
    import onnx

_ELEMENTWISE = (
    {"Abs", "Add", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Mul", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Tanh"}
)  # fmt: skip
_TIME = 2  # the axis, of [B, C, T, F]


def masked(spec: Spec) -> Spec:
    """The spec of a graph with the mask.

    Raises:
        ExportError: the model has no use for one, or none can be made.
    """
    if spec.segment is not None:
        raise ExportError(
            f"{spec.model} takes segments of {spec.segment.frames} frames, so that clips of any "
            "lengths share a batch already: leave ragged out"
        )
    vectors = [layer.name for layer in spec.layers if layer.kind == "vector"]
    if vectors:
        raise ExportError(
            f"{', '.join(vectors)} pools over the whole clip inside the graph, where a mask does "
            "not reach: leave ragged out, or export map layers only"
        )
    return replace(spec, masked=True)


def mask_frames(model: onnx.ModelProto) -> None:
    """Add the input ``valid_frames`` [batch] to a graph, and let nothing depend on later frames.

    A convolution whose padding reaches over time reads zeros after a clip's last frame, as it does
    alone. So whatever it reads is masked there: at each level the frames from
    ``valid_frames // (strides of the pooling so far)`` on.

    Args:
        model: from log-mel [batch, 1, frames, n_mels] to layer outputs that keep the time axis; it
            is changed.

    Raises:
        ExportError: an operator that is neither a convolution that keeps the length, nor a pooling
            without overlap, nor elementwise.
    """
    _Masker(model).run()


class _Masker:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        # By what the frames of log-mel were divided to give those of a value.
        self._levels = {INPUT: 1}
        self._masks: dict[int, str] = {}
        self._masked: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        import onnx

        graph = self._graph
        (source,) = (value for value in graph.input if value.name == INPUT)
        batch = source.type.tensor_type.shape.dim[0].dim_param
        for node in graph.node:
            self._add(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        graph.input.append(
            onnx.helper.make_tensor_value_info(VALID_FRAMES, onnx.TensorProto.INT32, [batch])
        )
        for name, values in (
            ("mask.zero", np.float32(0)),
            ("mask.start", np.int32(0)),
            ("mask.step", np.int32(1)),
            ("mask.first_axis", np.array([0])),
            ("mask.around_frames", np.array([0, 1, 3])),
            ("mask.after_batch", np.array([1, 2, 3])),
            *((f"mask.level_{level}", np.int32(level)) for level in self._masks if level > 1),
        ):
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))

    def _add(self, node: onnx.NodeProto) -> None:
        levels = {self._levels[name] for name in node.input if name in self._levels}
        if not levels:  # of constants
            self._nodes.append(node)
            return
        level = max(levels)
        if node.op_type == "Conv":
            if _reaches(node):
                node.input[0] = self._mask(node.input[0], level)
        elif node.op_type in ("AveragePool", "MaxPool"):
            level *= _pool(node)
        elif node.op_type not in _ELEMENTWISE or len(levels) > 1:
            raise _refusal(node)
        self._nodes.append(node)
        self._levels |= dict.fromkeys(node.output, level)

    def _mask(self, name: str, level: int) -> str:
        """The value ``name`` with zeros from the clip's end on."""
        if name not in self._masked:
            if level not in self._masks:
                self._masks[level] = f"mask.{level}"
                self._nodes += self._mask_nodes(name, level)
            masked = f"{name}.masked"
            self._nodes.append(_node("Where", [self._masks[level], name, "mask.zero"], masked))
            self._masked[name] = masked
        return self._masked[name]

    def _mask_nodes(self, name: str, level: int) -> Iterator[onnx.NodeProto]:
        """The nodes of ``mask.LEVEL`` [B, 1, T, 1]: whether a frame is one of the clip's."""
        import onnx

        prefix, valid = f"mask.{level}", VALID_FRAMES
        yield _node("Shape", [name], f"{prefix}.shape", start=_TIME, end=_TIME + 1)
        yield _node("Squeeze", [f"{prefix}.shape", "mask.first_axis"], f"{prefix}.count")
        yield _node("Cast", [f"{prefix}.count"], f"{prefix}.frames", to=onnx.TensorProto.INT32)
        parts = ["mask.start", f"{prefix}.frames", "mask.step"]
        yield _node("Range", parts, f"{prefix}.range")
        places = [f"{prefix}.range", "mask.around_frames"]
        yield _node("Unsqueeze", places, f"{prefix}.place")
        if level > 1:
            yield _node("Div", [valid, f"mask.level_{level}"], f"{prefix}.valid")
            valid = f"{prefix}.valid"
        yield _node("Unsqueeze", [valid, "mask.after_batch"], f"{prefix}.end")
        yield _node("Less", [f"{prefix}.place", f"{prefix}.end"], prefix)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)


def _reaches(node: onnx.NodeProto) -> bool:
    """Whether a convolution reads frames beside the one that it gives.

    Raises:
        ExportError: it does not keep the number of frames.
    """
    kernel, stride, dilation, before, after = _along_time(node)
    if stride != 1 or before + after != dilation * (kernel - 1):
        raise _refusal(node)
    return kernel > 1


def _pool(node: onnx.NodeProto) -> int:
    """By what a pooling divides the number of frames.

    Raises:
        ExportError: its windows overlap, or hold padding.
    """
    kernel, stride, dilation, before, after = _along_time(node)
    if (stride, dilation, before, after) != (kernel, 1, 0, 0) or _attributes(node).get("ceil_mode"):
        raise _refusal(node)
    return kernel


def _along_time(node: onnx.NodeProto) -> tuple[int, int, int, int, int]:
    """Kernel, stride, dilation and both paddings along time."""
    found = _attributes(node)
    kernel = found["kernel_shape"]
    if len(kernel) != 2 or found.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _refusal(node)
    pads = found.get("pads", [0, 0, 0, 0])
    stride, dilation = found.get("strides", [1])[0], found.get("dilations", [1])[0]
    return kernel[0], stride, dilation, pads[0], pads[2]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def _refusal(node: onnx.NodeProto) -> ExportError:
    return ExportError(
        f"clips of different lengths cannot share a batch of this model: its {node.op_type} that "
        f"gives {node.output[0]} is no convolution that keeps the length, no pooling without "
        "overlap and not elementwise. Leave ragged out"
    )
