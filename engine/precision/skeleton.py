"""A graph without its weights: what can be copied, analysed and rewritten for next to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ArtifactError

if TYPE_CHECKING:
    import onnx

_SMALL = 64  # elements: shapes and axes, which inference reads, are shorter


@dataclass(frozen=True)
class Skeleton:
    """A model's nodes, free to be rewritten, beside its initializers, which are not copied.

    Args:
        model: everything of the model but its initializers.
        initializers: the model's own, by name; read only.
    """

    model: onnx.ModelProto
    initializers: dict[str, onnx.TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Skeleton:
        """Copy all but the initializers and the notes on inner values.

        Raises:
            ArtifactError: sparse initializers, model-local functions or weights kept outside.
        """
        import onnx

        graph = model.graph
        outside = [
            t.name for t in graph.initializer if onnx.external_data_helper.uses_external_data(t)
        ]
        if graph.sparse_initializer or model.functions or outside:
            raise ArtifactError(
                "half precision needs a plain graph; this one has "
                f"{len(graph.sparse_initializer)} sparse initializers, {len(model.functions)} "
                f"functions and {len(outside)} weights in other files. Save it as one ONNX file of "
                "standard operators."
            )
        copy = onnx.ModelProto(
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            opset_import=model.opset_import,
            metadata_props=model.metadata_props,
            graph=onnx.GraphProto(
                name=graph.name, node=graph.node, input=graph.input, output=graph.output
            ),
        )
        return cls(copy, {tensor.name: tensor for tensor in graph.initializer})

    def element_types(self) -> dict[str, int]:
        """The element type (``TensorProto.DataType``) of every value and initializer.

        Raises:
            ArtifactError: ONNX cannot infer one.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        # A large initializer stands in as an input of its type and shape.
        for tensor in self.initializers.values():
            if math.prod(tensor.dims) <= _SMALL:
                model.graph.initializer.append(tensor)
            else:
                model.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        try:
            graph = onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise ArtifactError(
                f"ONNX cannot infer the types of the graph, which half precision needs: {error}"
            ) from error
        types = {name: tensor.data_type for name, tensor in self.initializers.items()}
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = value.type.tensor_type.elem_type
        for node in graph.node:
            for name in node.output:
                if name and not types.get(name):
                    raise ArtifactError(
                        f"ONNX cannot tell the type of what {describe_node(node)} gives; half "
                        "precision needs it. Export the model again, with standard operators only."
                    )
        return types


def describe_node(node: onnx.NodeProto) -> str:
    """A node in a message: its operator, and the parameter or else the value that it reads."""
    named = [name for name in node.input if "." in name] or [name for name in node.input if name]
    return f"{node.op_type} (on {named[-1]})" if named else str(node.op_type)
