"""What an export wrote, and the file beside the artifact that keeps it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .._atomic import atomic_path
from ..artifact import file_sha256, report_path
from ..spec import Spec
from .verify import LayerCheck


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote.

    Args:
        path: the artifact.
        spec: the contract inside it.
        opset: its ONNX opset.
        bytes: its size, without external data.
        external_bytes: size of the file beside it that holds its weights, 0 where there is none.
        checks: every layer against the FP64 reference; of a waveform artifact its embedding against
            the artifact that it was made of.
        activations: largest |activation| of every convolution, linear and sum over the verification
            inputs, by the name of its module.
        seconds: how long the export took.
    """

    path: Path
    spec: Spec
    opset: int
    bytes: int
    external_bytes: int = 0
    checks: tuple[LayerCheck, ...]
    activations: Mapping[str, float]
    seconds: float

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers' numbers, in the order of the outputs."""
        return tuple(layer.number for layer in self.spec.layers)

    @property
    def max_error(self) -> Mapping[str, float]:
        """Largest difference per output as a fraction of the output's largest value."""
        return {check.name: check.error for check in self.checks}

    def save(self, written: Path, external: Path | None = None) -> None:
        """Write ``ARTIFACT.onnx.json``: the report, and the SHA-256 of the artifact's files.

        Args:
            written: where the artifact's bytes are now.
            external: where the bytes of its external data are now.
        """
        data = {
            "sha256": file_sha256(written),
            "external_sha256": None if external is None else file_sha256(external),
            "model": self.spec.model,
            "layers": list(self.layers),
            "embedding_dim": self.spec.embedding_dim,
            "weights": asdict(self.spec.weights),
            "opset": self.opset,
            "bytes": self.bytes,
            "external_bytes": self.external_bytes,
            "max_error": dict(self.max_error),
            "activations": dict(self.activations),
            "seconds": round(self.seconds, 3),
        }
        with atomic_path(report_path(self.path)) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
