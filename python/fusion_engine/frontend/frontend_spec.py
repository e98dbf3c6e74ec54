"""What a frontend computes, as plain data: the part of the spec that turns samples into log-mel."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FrontendSpec:
    """Settings of one log-mel frontend; samples and frequencies in Hz, lengths in samples.

    Args:
        preset: the preset that these settings started from.
        sample_rate: samples per second.
        win_length: length of the analysis window.
        n_fft: length of the FFT; the window is zero-padded to it on the right.
        hop_length: samples between the starts of two frames.
        window: ``hann`` (periodic) or ``hann_symmetric``.
        padding: ``reflect`` centres the frames (n_fft // 2 reflected samples on both sides);
            ``none`` takes whole frames only.
        remove_dc: subtract each frame's mean.
        preemphasis: coefficient of the per-frame pre-emphasis, 0 for none; the first sample of a
            frame is emphasised against itself, as Kaldi does.
        spectrum: ``power`` or ``magnitude``.
        mel_scale: ``slaney`` (librosa's), ``htk`` or ``kaldi``.
        mel_norm: ``slaney`` (unit area) or ``none``.
        n_mels: number of mel bins.
        f_min: lower edge of the first mel bin.
        f_max: upper edge of the last mel bin.
        log: ``db`` is 10·log10(max(x, log_offset)), ``ln_add`` is ln(x + log_offset),
            ``ln_max`` is ln(max(x, log_offset)).
        log_offset: see ``log``.
        mean: subtracted from the log-mel, in its unit.
        std: the log-mel is then divided by 2·std; ``None`` leaves it as it is.
    """

    preset: str
    sample_rate: int
    win_length: int
    n_fft: int
    hop_length: int
    window: Literal["hann", "hann_symmetric"]
    padding: Literal["reflect", "none"]
    remove_dc: bool
    preemphasis: float
    spectrum: Literal["power", "magnitude"]
    mel_scale: Literal["slaney", "htk", "kaldi"]
    mel_norm: Literal["slaney", "none"]
    n_mels: int
    f_min: float
    f_max: float
    log: Literal["db", "ln_add", "ln_max"]
    log_offset: float
    mean: float = 0.0
    std: float | None = None

    def frames(self, samples: int) -> int:
        """Number of frames of a clip of ``samples`` samples (0 when it is too short for one)."""
        if self.padding == "reflect":
            return 1 + samples // self.hop_length
        return max(0, 1 + (samples - self.win_length) // self.hop_length)

    def samples(self, frames: int) -> int:
        """The smallest number of samples that gives ``frames`` frames."""
        if self.padding == "reflect":
            return (frames - 1) * self.hop_length
        return self.win_length + (frames - 1) * self.hop_length

    @property
    def least_frames(self) -> int:
        """The fewest frames whose samples are enough for one window, or for the reflection."""
        if self.padding == "none":
            return 1
        hops = -(-(self.n_fft // 2 + 1) // self.hop_length)
        return 1 + hops

    @property
    def reach(self) -> int:
        """Frames at a clip's end that may hold reflected samples, and one to spare."""
        return self.n_fft // 2 // self.hop_length + 1 if self.padding == "reflect" else 0

    def sha256(self) -> str:
        """SHA-256 (hex) of all settings, in canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _panns(rate: int, n_fft: int, hop: int, f_max: float) -> FrontendSpec:
    return FrontendSpec(
        preset=f"panns_{rate // 1000}k",
        sample_rate=rate,
        win_length=n_fft,
        n_fft=n_fft,
        hop_length=hop,
        window="hann",
        padding="reflect",
        remove_dc=False,
        preemphasis=0.0,
        spectrum="power",
        mel_scale="slaney",
        mel_norm="slaney",
        n_mels=64,
        f_min=50.0,
        f_max=f_max,
        log="db",
        log_offset=1e-10,
    )


PANNS_8K = _panns(8_000, 256, 80, 4_000.0)
PANNS_16K = _panns(16_000, 512, 160, 8_000.0)
PANNS_32K = _panns(32_000, 1_024, 320, 14_000.0)

VGGISH = replace(
    PANNS_16K,
    preset="vggish",
    win_length=400,
    padding="none",
    spectrum="magnitude",
    mel_scale="htk",
    mel_norm="none",
    f_min=125.0,
    f_max=7_500.0,
    log="ln_add",
    log_offset=0.01,
)

AST = replace(
    PANNS_16K,
    preset="ast",
    win_length=400,
    window="hann_symmetric",
    padding="none",
    remove_dc=True,
    preemphasis=0.97,
    mel_scale="kaldi",
    mel_norm="none",
    n_mels=128,
    f_min=20.0,
    log="ln_max",
    log_offset=1.1920929e-07,
    mean=-4.2677393,
    std=4.5689974,
)

FRONTENDS = {spec.preset: spec for spec in (PANNS_8K, PANNS_16K, PANNS_32K, VGGISH, AST)}
