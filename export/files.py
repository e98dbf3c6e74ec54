"""The files of an artifact: one, or two where the weights exceed what one ONNX file holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact import data_path
from ..errors import ExportError

if TYPE_CHECKING:
    import onnx

# A serialised message of protobuf ends at 2 GiB; the rest is for the graph itself.
MOST_BYTES = 2**31 - 2**26
# Tensors below this stay in the graph, where shape inference sees them.
LEAST_EXTERNAL_BYTES = 1024


@contextmanager
def written(model: onnx.ModelProto, path: Path) -> Iterator[Path | None]:
    """Write ``model`` to ``path``, and have ONNX's own checker read it back.

    Gives the file beside it that holds its weights, where they are too large for one file; it is
    removed at the end, if it was not moved. The model is then without its weights.

    Raises:
        ExportError: it is not valid ONNX.
    """
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    data = data_path(path) if size > MOST_BYTES else None
    try:
        if data is None:
            onnx.save_model(model, path)
        else:
            onnx.save_model(
                model,
                path,
                save_as_external_data=True,
                location=data.name,
                size_threshold=LEAST_EXTERNAL_BYTES,
            )
        try:
            onnx.checker.check_model(path, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
        yield data
    finally:
        if data is not None:
            data.unlink(missing_ok=True)


def refer_to(path: Path, name: str) -> None:
    """Let the artifact at ``path`` find its external data in the file ``name`` beside it."""
    import onnx

    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    onnx.save_model(model, path)
