"""What a module, torch or its exporter raise comes out as one readable ``ExportError``."""

import pytest
import torch
import transformers
from torch import nn

from fusion_engine import ExportError
from fusion_engine.errors import AudioError
from fusion_engine.export import ModuleLayer, export_module
from fusion_engine.export.foreign import cause_of, foreign
from fusion_engine.frontend import FRONTENDS

pytestmark = pytest.mark.heavy

PANNS = FRONTENDS["panns_16k"]


def test_the_root_cause_in_one_line():
    def wrapping():
        try:
            raise KeyError
        except KeyError as error:
            raise RuntimeError("\n\n  what the exporter makes of it:\n  a tale") from error

    with pytest.raises(ExportError) as found, foreign("torch cannot export Net", "Try less"):
        wrapping()
    assert str(found.value) == "torch cannot export Net: KeyError. Try less"
    assert isinstance(found.value.__cause__, RuntimeError)
    assert cause_of(ValueError("\n the first line.\nmore")) == "the first line (ValueError)"
    assert len(cause_of(ValueError("x" * 10_000))) < 400


def test_what_passes():
    for error in (AudioError("as it is"), KeyboardInterrupt(), SystemExit(143)):
        with pytest.raises(type(error)), foreign("no"):
            raise error


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(64, 16, 3, stride=2, padding=1)
        self.rnn = nn.GRU(16, 8, batch_first=True)

    def forward(self, x):
        return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Opens(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        raise FileNotFoundError("labels.csv")


@pytest.mark.parametrize(
    ("module", "layer", "lengths", "message"),
    [
        (
            Recurrent,
            "rnn",
            {"dynamic_from": 16, "seconds": 2.0},
            r"^torch cannot export Recurrent: .*\. Export it for one length: frames= or seconds=",
        ),
        (Branches, "layer", {"frames": 50}, r"^torch cannot export Branches: .*data-dependent"),
        (Opens, "layer", {"frames": 50}, r"^Opens does not run on log-mel \[1, 50, 64\]: labels"),
    ],
)
def test_what_torch_refuses(tmp_path, module, layer, lengths, message):
    with pytest.raises(ExportError, match=message) as found:
        export_module(
            module(),
            tmp_path / "x.onnx",
            layers=[ModuleLayer(name=layer, axes="BTC")],
            frontend=PANNS,
            input_axes="BTM",
            **lengths,
        )
    assert found.value.__cause__ is not None
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_a_recurrent_network_of_one_length(tmp_path):
    """It amplifies rounding: what is allowed is twice what PyTorch's own FP32 loses."""
    torch.manual_seed(0)
    report = export_module(
        Recurrent(),
        tmp_path / "x.onnx",
        layers=[ModuleLayer(name="rnn", axes="BTC")],
        frontend=PANNS,
        input_axes="BTM",
        frames=40,
    )
    assert all(check.error <= check.tolerance <= 1e-3 for check in report.checks)


def test_outputs_of_transformers_are_tensors(tmp_path):
    """An encoder's output is a dataclass of its own."""
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        num_mel_bins=64,
        max_source_positions=25,
    )

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)

        def forward(self, x):
            return self.encoder(x)

    report = export_module(
        Wrapped(),
        tmp_path / "x.onnx",
        layers=[ModuleLayer(name="encoder", axes="BTC")],
        frontend=PANNS,
        input_axes="BMT",
        frames=50,
    )
    assert (report.spec.frames_per_step, report.spec.embedding_dim) == (2, 16)
