"""An artifact against the model as published: the same log-mel through both."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine.network import fed
from ..engine.onnx import import_onnxruntime
from ..errors import ExportError
from ..frontend.frontend_spec import FrontendSpec

if TYPE_CHECKING:
    import torch

    from ..spec import Spec
    from .backbones.base import Backbone

    LayerFunction = Callable[[torch.Tensor], Sequence[torch.Tensor]]

# FP32 convolutions and folded batch norms were measured at 5e-7 of the largest value against FP64.
TOLERANCE = 5e-6
# Beyond it an export proves nothing, however much the module itself amplifies rounding.
MOST_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """One layer of an artifact against the FP64 reference, over all verification inputs.

    Args:
        name: the graph output.
        max_abs: largest absolute difference.
        max_value: largest absolute value of the reference.
        tolerance: the largest ``max_abs / max_value`` that passes.
    """

    name: str
    max_abs: float
    max_value: float
    tolerance: float = TOLERANCE

    @property
    def error(self) -> float:
        """The difference as a fraction of the largest value."""
        return self.max_abs / self.max_value if self.max_value > 0 else self.max_abs

    @property
    def passed(self) -> bool:
        """Whether the error is finite and within the tolerance."""
        return self.error <= self.tolerance  # false for NaN


def verify(
    path: Path, spec: Spec, reference: LayerFunction, peer: LayerFunction | None = None
) -> tuple[LayerCheck, ...]:
    """Run the artifact at ``path`` and its FP64 reference on the same log-mel.

    Args:
        path: the artifact.
        spec: its spec.
        reference: gives the layers' outputs for FP64 log-mel [B, 1, T, n_mels], nothing folded.
        peer: the same in FP32. Where its own error is above half the tolerance, as in a recurrent
            network that amplifies rounding, twice that error is allowed, up to ``MOST_TOLERANCE``.

    Returns:
        one passed check per layer.

    Raises:
        ExportError: ONNX Runtime refuses the file, a shape or a value differs, or a value is not
            finite; the message names the layers.
        BackendError: onnxruntime is missing.
    """
    import torch

    names = [layer.name for layer in spec.layers]
    max_abs, max_value, own = (np.zeros(len(names)) for _ in range(3))
    inputs = verification_inputs(spec)
    feeds = [fed(spec, log_mel) for log_mel in inputs]
    lengths = [log_mel.shape[2] for log_mel in inputs]
    if spec.masked:
        # The first of two clips is shorter, by a number that is odd at every level of pooling.
        inputs, lengths = (*inputs, inputs[-1]), [*lengths, spec.min_frames + 15]
        valid = np.array([lengths[-1], inputs[-1].shape[2]], np.int32)
        feeds.append(fed(spec, inputs[-1], valid))
    runs = _run(path, names, feeds)
    for batch, length, outputs in zip(inputs, lengths, runs, strict=True):
        shorter = length < batch.shape[2]
        log_mel = batch[:1, :, :length] if shorter else batch
        with torch.inference_mode():
            expected = reference(torch.from_numpy(log_mel).double())
            in_fp32 = expected if peer is None else peer(torch.from_numpy(log_mel))
        for i, (want, tensor) in enumerate(zip(expected, in_fp32, strict=True)):
            own[i] = np.fmax(own[i], float((want - tensor).abs().max()))
        for i, (name, got, tensor) in enumerate(zip(names, outputs, expected, strict=True)):
            want = tensor.numpy()
            if shorter:
                got = got[:1, :, : want.shape[2]]
            if got.shape != want.shape:
                raise ExportError(
                    f"the exported graph gives {name} of shape {list(got.shape)} for log-mel "
                    f"{list(log_mel.shape)}, the model gives {list(want.shape)}"
                )
            # np.maximum passes NaN on, and NaN never passes the check.
            with np.errstate(invalid="ignore"):
                max_abs[i] = np.maximum(max_abs[i], np.abs(got - want).max())
                max_value[i] = np.maximum(max_value[i], np.abs(want).max())
    checks = tuple(
        LayerCheck(
            name=name,
            max_abs=float(difference),
            max_value=float(value),
            tolerance=min(max(TOLERANCE, 2 * float(error / (value or 1))), MOST_TOLERANCE),
        )
        for name, difference, value, error in zip(names, max_abs, max_value, own, strict=True)
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        raise ExportError(
            "the exported graph does not give the model's values: "
            + "; ".join(
                f"{c.name} is off by {c.error:.1e} of its largest value (at most {c.tolerance:.0e} "
                "is allowed)"
                for c in failed
            )
            + ". Weights with damaged or extreme values do this; if they are sound, report the "
            "versions of torch and onnxscript."
        )
    return checks


def verification_inputs(model: Backbone | Spec) -> tuple[NDArray[np.float32], ...]:
    """Seeded log-mel [2, 1, T, n_mels]: the one length, or the shortest and an odd one.

    Each has a level, a spectral tilt and a random walk over time, like audio, and noise on top;
    values span -100 to 20 dB, in the unit and with the normalisation of the model's frontend.
    """
    rng = np.random.default_rng(20220517)
    lengths = [model.min_frames]
    if model.segment is None:
        lengths.append(3 * model.min_frames + 5)
    inputs = []
    for frames in lengths:
        shape = (2, 1, frames, model.frontend.n_mels)
        level = rng.uniform(-40.0, -10.0, (2, 1, 1, 1))
        tilt = np.linspace(15.0, -25.0, shape[-1])
        walk = np.cumsum(rng.normal(0.0, 5.0, shape), axis=2)
        db = np.clip(level + tilt + walk + rng.normal(0.0, 6.0, shape), -100.0, 20.0)
        inputs.append(_as_log_mel(db, model.frontend).astype(np.float32))
    return tuple(inputs)


def _as_log_mel(db: NDArray[np.float64], frontend: FrontendSpec) -> NDArray[np.float64]:
    """What ``frontend`` gives for a mel power of ``db``."""
    log_mel = db
    if frontend.log != "db":
        mel = 10.0 ** (db / (20.0 if frontend.spectrum == "magnitude" else 10.0))
        offset = frontend.log_offset
        log_mel = np.log(mel + offset if frontend.log == "ln_add" else np.maximum(mel, offset))
    return (log_mel - frontend.mean) / (1.0 if frontend.std is None else 2.0 * frontend.std)


def _run(
    path: Path, names: list[str], feeds: Sequence[dict[str, NDArray[Any]]]
) -> list[list[NDArray[np.float32]]]:
    """The artifact's outputs on ONNX Runtime's CPU provider."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors are raised
    try:
        session = runtime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        return [session.run(names, feed) for feed in feeds]
    except Exception as error:  # onnxruntime's own classes share no public base
        raise ExportError(f"ONNX Runtime cannot run the exported graph: {error}") from error
