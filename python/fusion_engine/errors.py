"""The errors of fusion_engine.

Every message says what was got, what was expected and what to do about it. An argument of the
wrong Python type is a plain ``TypeError``.
"""


class FusionEngineError(Exception):
    """Base class of every error that fusion_engine raises on purpose.

    Attributes:
        kind: what is wrong in a few words, the same for all inputs with which it is: to count by.
    """

    kind = "other"


class AudioError(FusionEngineError):
    """Audio that cannot be embedded: missing, undecodable, empty, non-finite or mis-shaped."""

    def __init__(self, message: str, *, kind: str = "cannot be embedded") -> None:
        super().__init__(message)
        self.kind = kind


class ArtifactError(FusionEngineError):
    """An artifact that is missing, damaged, of another format version or has no spec."""


class BackendError(FusionEngineError):
    """A library or device that is missing or cannot run the artifact, or memory that ran out."""


class ExportError(FusionEngineError):
    """Weights that do not fit, layers that do not exist, or an export that failed its check."""


class WeightsError(ExportError):
    """Weights that could not be downloaded or did not match their checksum."""


class NumericalError(FusionEngineError):
    """Non-finite values in a layer output: the message names the layer and the clip."""

    kind = "no finite embedding"


class DatasetError(FusionEngineError):
    """A task's data that is missing, half unpacked or contradicts itself: shows the layout."""
