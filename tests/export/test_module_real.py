"""Foreign models as they come: random weights, their authors' code."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import fusion_engine as fe
from fusion_engine import ExportError
from fusion_engine.export import ModuleLayer, export_module
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import signals

pytestmark = pytest.mark.heavy

PANNS = FRONTENDS["panns_16k"]


def outputs_of(model, names, log_mel):
    found = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
    with torch.no_grad():
        model(log_mel.double())
    outputs = [found[name] for name in names]
    return [output[0] if isinstance(output, tuple) else output for output in outputs]


def embedding_of(maps, pools):
    """Eq. 1 to 3 in FP64; what is left at the end is a window of its own."""
    parts = [
        nn.functional.max_pool2d(m, (k, 1), ceil_mode=True).permute(0, 1, 3, 2).flatten(1, 2)
        for m, k in zip(maps, pools, strict=True)
    ]
    steps = parts[-1].shape[2]
    z = torch.cat([part[:, :, :steps] for part in parts], dim=1)[0]
    return (z.mean(dim=1) + z.amax(dim=1)).numpy()


def close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 5e-6 * np.abs(expected).max()


def test_convnext_of_any_length(tmp_path):
    """A patchify stem of stride 4, then three of stride 2, all rounding down."""
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(
        num_channels=1, hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1]
    )
    model = transformers.ConvNextModel(config).eval()
    names = ["encoder.stages.1", "encoder.stages.3"]
    report = export_module(
        model, tmp_path / "x.onnx", layers=names, frontend=PANNS, dynamic_from=32, seconds=10
    )
    assert (report.spec.frames_per_step, report.spec.step_offset) == (32, 0)
    assert [layer.time_pool for layer in report.spec.layers] == [4, 1]
    engine, model = fe.Engine(report.path), model.double()
    for seconds in (0.5, 3.37):
        x = signals.speech_like(seconds, 16_000)
        log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))
        maps = outputs_of(model, names, log_mel)
        # No window is short here: 4 steps of the fine map are one of the coarse one.
        maps[0] = maps[0][:, :, : 4 * maps[1].shape[2]]
        close(engine.embed(x), embedding_of(maps, (4, 1)))


@pytest.mark.parametrize("frames", [1001, 998])
def test_resnet_of_ten_seconds(tmp_path, frames):
    """Ten seconds at a hop of 10 ms are 1001 frames, which strided convolutions round up."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 4, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
    )
    model = transformers.ResNetModel(config).eval()
    names = ["encoder.stages.0", "encoder.stages.3"]
    report = export_module(model, tmp_path / "x.onnx", layers=names, frontend=PANNS, frames=frames)
    assert report.spec.steps(frames) == 32
    x = signals.speech_like((frames - 1) / 100, 16_000)
    log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))
    assert log_mel.shape[2] == frames
    maps = outputs_of(model.double(), names, log_mel)
    assert maps[0].shape[2] == -(-frames // 4)
    close(fe.Engine(report.path).embed(x), embedding_of(maps, (8, 1)))


def parakeet(attention):
    torch.manual_seed(0)
    config = transformers.ParakeetEncoderConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_mel_bins=64,
        subsampling_conv_channels=4,
        conv_kernel_size=3,
        attn_implementation=attention,
    )
    return transformers.models.parakeet.modeling_parakeet.ParakeetEncoder(config).eval()


def test_attention_that_torch_cannot_export(tmp_path):
    with pytest.raises(
        ExportError, match=r'^torch cannot export .*\. Load the model with attn_impl.*="eager"$'
    ):
        export_module(
            parakeet("sdpa"),
            tmp_path / "x.onnx",
            layers=[ModuleLayer(name="layers.0", axes="BTC")],
            frontend=PANNS,
            input_axes="BTM",
            frames=41,
        )


def test_parakeet_of_ten_seconds(tmp_path):
    """One layer of a conformer whose three strided convolutions round up."""
    model = parakeet("eager")
    report = export_module(
        model,
        tmp_path / "x.onnx",
        layers=[ModuleLayer(name="layers.0", axes="BTC")],
        frontend=PANNS,
        input_axes="BTM",
        frames=1001,
    )
    assert (report.spec.steps(1001), report.spec.frames_per_step) == (126, 8)
    x = signals.chirp(10.0, 16_000)
    log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))[:, 0]
    (hidden,) = outputs_of(model.double(), ["layers.0"], log_mel)
    engine = fe.Engine(report.path)
    close(engine.embed_frames(x), hidden[0].T.numpy())
    close(engine.embed(x), (hidden.mean(dim=1) + hidden.amax(dim=1))[0].numpy())
