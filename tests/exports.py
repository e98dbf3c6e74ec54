"""Exports of whole models that many tests read, and artifacts that are cut out of them."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from fusion_engine.export import ExportReport, export, resolve
from fusion_engine.spec import METADATA_KEY, Spec

# In orders that are not those of the graphs.
CNN14_LAYERS = (7, 3, 1, 6, 5, 2, 4)
VGGISH_LAYERS = (22, 10, 2, 15, 18, 5, 20, 8, 13)
AST_LAYERS = (12, 3, 1, 2, 11, 5, 4, 6, 10, 9, 7, 8)

Shared = Callable[[str, Callable[[Path], object]], Path]


def exported(shared: Shared, name: str, model: str, weights: Path, **choices: Any) -> ExportReport:
    """The report of an export that one process of the run makes."""

    def make(folder: Path) -> None:
        report = export(model, folder / f"{model}.onnx", weights=weights, **choices)
        (folder / "report").write_bytes(pickle.dumps(report))

    folder = shared(name, make)
    report: ExportReport = pickle.loads((folder / "report").read_bytes())
    return replace(report, path=folder / report.path.name)


def change_spec(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of an artifact with fields of its spec changed."""
    model = onnx.load(source)
    _change_spec(model, **changes)
    onnx.save(model, target)
    return target


def with_layers(source: Path, target: Path, numbers: Sequence[int], **changes: Any) -> Path:
    """The artifact ``source`` as an export of these layers alone: what else is in it is cut away.

    ``changes`` are of its spec.
    """
    model = onnx.load(source)
    spec = Spec.from_json(model.metadata_props[0].value)
    layers = {layer.number: layer for layer in spec.layers}
    chosen = tuple(layers[number] for number in numbers)
    backbone = resolve(spec.model)
    _change_spec(
        model,
        layers=chosen,
        embedding_dim=sum(layer.dim for layer in chosen),
        frames_per_step=backbone.frames_per_step(numbers),
        chunk_margin=backbone.chunk_margin(numbers),
        **changes,
    )
    graph = model.graph
    outputs = {value.name: value for value in graph.output}
    kept = [outputs[layer.name] for layer in chosen]
    needed = {value.name for value in kept}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    values = [value for value in graph.value_info if value.name in needed]
    cut = onnx.helper.make_graph(
        nodes[::-1], graph.name, graph.input, kept, initializers, value_info=values
    )
    model.graph.CopyFrom(cut)
    onnx.save(model, target)
    return target


def _change_spec(model: onnx.ModelProto, **changes: Any) -> None:
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = replace(Spec.from_json(entry.value), **changes).to_json()
