"""Any torch module as an artifact: two models of others, and modules that do not fit."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import transformers
from torch import nn

import fusion_engine as fe
from fusion_engine import ExportError
from fusion_engine.export import ModuleLayer, export_module
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import oracles, signals

pytestmark = pytest.mark.heavy

RATE = 16_000
PANNS, AST = FRONTENDS["panns_16k"], FRONTENDS["ast"]
TOLERANCE = 5e-6


def close(got, expected):
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture(scope="module")
def decision_level():
    """PANNs' Cnn14_DecisionLevelMax after its frontend, and the layers' own outputs."""
    models = oracles.panns_models()
    torch.manual_seed(5)
    model = models.Cnn14_DecisionLevelMax(RATE, 512, 160, 64, 50, 8000, 527).eval()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_var.uniform_(0.5, 1.5)
            norm.running_mean.normal_(0, 0.1)
        model.bn0.running_mean.fill_(-30)
        model.bn0.running_var.fill_(400)
    # The model takes samples; with its frontend out of the way it takes log-mel [B, 1, T, M].
    model.spectrogram_extractor = nn.Identity()
    model.logmel_extractor = nn.Identity()
    return model


def outputs_of(model, names, log_mel):
    """What the submodules give, by torch's own hooks."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.no_grad():
        model(log_mel)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names]


@pytest.mark.slow
def test_another_architecture_of_panns(decision_level, tmp_path):
    path = tmp_path / "decision.onnx"
    before = copy.deepcopy(decision_level.state_dict())
    report = export_module(
        decision_level,
        path,
        layers=["conv_block2", "conv_block4"],
        frontend=PANNS,
        frames=321,
    )
    assert all(torch.equal(before[k], v) for k, v in decision_level.state_dict().items())
    assert report.spec.model == "Cnn14_DecisionLevelMax"
    assert [(x.number, x.module, x.time_pool) for x in report.spec.layers] == [
        (1, "conv_block2", 4),
        (2, "conv_block4", 1),
    ]
    assert report.spec.frames_per_step == 16
    engine = fe.Engine(path)
    for seconds in (3.2, 5.0):  # the second one's incomplete segment is dropped
        x = signals.speech_like(seconds, RATE)
        log_mel = Frontend(PANNS).batch([x])[:, :, :321]
        two, four = outputs_of(
            decision_level, ["conv_block2", "conv_block4"], torch.from_numpy(log_mel)
        )
        got = engine.layer_outputs(x)
        close(got["layer_1"], two)
        close(got["layer_2"], four)
        steps = 321 // 16
        pooled = nn.functional.max_pool2d(two, (4, 1))[:, :, :steps]
        z = torch.cat([m.permute(0, 1, 3, 2).flatten(1, 2) for m in (pooled, four)], dim=1)[0]
        close(engine.embed_frames(x), z)
        close(engine.embed(x), z.mean(dim=1) + z.amax(dim=1))
    # Nothing after block 4 is in the file.
    kept = sum(p.numel() for n, p in decision_level.named_parameters() if n < "conv_block5")
    held = sum(int(np.prod(i.dims)) for i in onnx.load(path).graph.initializer)
    assert held < 1.01 * kept
    # Its head reads the length as a number, which cannot be dynamic.
    with pytest.raises(ExportError, match=r"fixes its number of frames.*without dynamic_from="):
        export_module(decision_level, path, layers=["conv_block2"], frontend=PANNS, dynamic_from=32)


def test_any_length(tmp_path):
    module, path = Small(), tmp_path / "small.onnx"
    report = export_module(
        module, path, layers=["a", "b"], frontend=PANNS, dynamic_from=2, seconds=2.0
    )
    assert (report.spec.min_frames, report.spec.max_frames, report.spec.segment) == (2, 201, None)
    engine = fe.Engine(path)
    for seconds in (0.03, 0.5, 1.99):
        x = signals.chirp(seconds, RATE)
        a, b = outputs_of(module, ["a", "b"], torch.from_numpy(Frontend(PANNS).batch([x])))
        got = engine.layer_outputs(x)
        close(got["layer_1"], a[0])
        close(got["layer_2"], b[0])
    with pytest.raises(fe.AudioError, match=r"at most 201 .*cannot be cut"):
        engine.embed(signals.noise(3.0, RATE))


TOKENS = {"mean": slice(None), "first": slice(0, 1), "first_two_mean": slice(0, 2)}


def test_a_transformer_of_transformers(tmp_path):
    """Every pooling of two blocks' tokens at once."""
    torch.manual_seed(6)
    config = transformers.ASTConfig(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_length=98,
        num_mel_bins=128,
    )
    model = transformers.ASTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    blocks = [name for name, _ in model.named_modules() if name.endswith(("layers.1", "layers.3"))]
    names = blocks or ["encoder.layer.1", "encoder.layer.3"]
    path = tmp_path / "small.onnx"
    report = export_module(
        model,
        path,
        layers=[
            ModuleLayer(name=name, axes="BNC", tokens=tokens) for tokens in TOKENS for name in names
        ],
        frontend=AST,
        input_axes="BTM",
        frames=98,
        last="pad",
    )
    assert report.spec.embedding_dim == 3 * 96
    assert report.spec.segment is not None
    engine = fe.Engine(path)
    x = signals.chirp(1.0, RATE)
    hidden = outputs_of(model, names, torch.from_numpy(Frontend(AST)(x)[None]))
    hidden = [tensor[0] if isinstance(tensor, tuple) else tensor for tensor in hidden]
    reduced = [tensor[0, take].mean(dim=0) for take in TOKENS.values() for tensor in hidden]
    close(engine.embed(x), torch.cat(reduced))


class Small(nn.Module):
    """Maps of every axis order, a vector, and submodules that cannot be layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(1, 8, 3, stride=(1, 4), padding=1)
        self.b = nn.Conv2d(8, 8, (2, 1), stride=(2, 1))
        self.turned = nn.Identity()
        self.flat = nn.Identity()
        self.head = nn.Linear(8 * 16, 4)
        self.twice = nn.ReLU()
        self.same = self.twice
        self.unused = nn.ReLU()
        self.pair = Pair()

    def forward(self, x):
        x = self.twice(self.b(self.twice(self.a(x))))
        self.turned(x.permute(0, 3, 2, 1))
        self.flat(x.mean(dim=3).transpose(1, 2))
        self.pair(x)
        return self.head(x.mean(dim=2).flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return {"x": x}


def test_axes_and_vectors(tmp_path):
    module = Small()
    layers = [
        "a",
        ModuleLayer(name="turned", axes="BFTC"),
        ModuleLayer(name="flat", axes="BTC"),
        "head",
    ]
    path = tmp_path / "small.onnx"
    report = export_module(module, path, layers=layers, frontend=PANNS, frames=100, name="small")
    assert [(x.kind, x.channels, x.freq, x.time_pool) for x in report.spec.layers] == [
        ("map", 8, 16, 2),
        ("map", 8, 16, 1),
        ("map", 8, 1, 1),
        ("vector", 4, 1, 1),
    ]
    engine = fe.Engine(path)
    x = signals.tone(0.99, RATE)  # 100 frames
    log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))
    a, turned, flat, head = outputs_of(module, ["a", "turned", "flat", "head"], log_mel)
    z = torch.cat(
        [
            nn.functional.max_pool2d(a, (2, 1)).permute(0, 1, 3, 2).flatten(1, 2),
            turned.permute(0, 3, 1, 2).flatten(1, 2),
            flat.transpose(1, 2),
            head[:, :, None].expand(-1, -1, 50),
        ],
        dim=1,
    )[0].detach()
    close(engine.embed_frames(x), z)
    close(engine.embed(x), z.mean(dim=1) + z.amax(dim=1))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["aa"], r"unknown submodule 'aa'; Small has a"),
        (["haed"], r"unknown submodule 'haed'; Small has head"),
        ([""], "unknown submodule ''"),
        ([], "no layer was asked for; Small has a, b"),
        (["twice"], "'twice' ran 2 times in one pass"),
        (["same"], "'same' ran 2 times in one pass"),
        (["unused"], "'unused' ran 0 times in one pass"),
        (["pair"], "'pair' returns dict, expected a tensor"),
        (["flat"], r"'flat' returns the shape \[1, 50, 8\]; say what its axes"),
        ([ModuleLayer(name="a", axes="BC")], r"'a' returns the shape \[1, 8, 100, 16\]"),
        ([ModuleLayer(name="a", axes="CBTF")], "axes='CBTF' of 'a', expected one of"),
        (["a", "b", "a"], "layers name 'a' twice: leave one out"),
    ],
)
def test_layers_that_cannot_be(tmp_path, layers, message):
    with pytest.raises(ExportError, match=message):
        export_module(Small(), tmp_path / "x.onnx", layers=layers, frontend=PANNS, frames=100)
    assert not list(tmp_path.iterdir())


def strided(*layers):
    """Convolutions in time, named ``0``, ``1``, …, that keep one in eight mel bins."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, (3, 8), stride=(2, 8), padding=(1, 0)), *layers).eval()


def again():
    return nn.Conv2d(3, 3, (3, 1), stride=(2, 1), padding=(1, 0))


def fused(maps, pools, steps):
    """Eq. 1 to 3 by torch's pooling, which takes what is left at the end in ``ceil_mode``."""
    z = torch.cat(
        [
            nn.functional.max_pool2d(m.double(), (k, 1), ceil_mode=True)[:, :, :steps]
            .permute(0, 1, 3, 2)
            .flatten(1, 2)
            for m, k in zip(maps, pools, strict=True)
        ],
        dim=1,
    )[0]
    assert z.shape[1] == steps
    return z, z.mean(dim=1) + z.amax(dim=1)


@pytest.mark.parametrize("frames", [1001, 998])
def test_one_length_where_convolutions_round_up(tmp_path, frames):
    module, path = strided(again()), tmp_path / "x.onnx"
    report = export_module(module, path, layers=["0", "1"], frontend=PANNS, frames=frames)
    steps = -(-frames // 4)
    assert report.spec.steps(frames) == steps == {1001: 251, 998: 250}[frames]
    assert report.spec.frames_per_step == 4
    engine = fe.Engine(path)
    # The second one has two segments and a bit, which is dropped.
    for seconds in (frames / 100 - 0.01, 2 * frames / 100 + 0.5):
        x = signals.speech_like(seconds, RATE)
        log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))
        parts = [
            outputs_of(module, ["0", "1"], log_mel[:, :, s : s + frames])
            for s in range(0, log_mel.shape[2] - frames + 1, frames)
        ]
        z = torch.cat([fused(maps, (2, 1), steps)[0] for maps in parts], dim=1)
        close(engine.embed_frames(x), z)
        close(engine.embed(x), z.mean(dim=1) + z.amax(dim=1))
        assert engine.frame_rate == 25


def test_any_length_where_convolutions_round_up(tmp_path):
    module, path = strided(again(), again()), tmp_path / "x.onnx"
    report = export_module(
        module, path, layers=["0", "2"], frontend=PANNS, dynamic_from=8, seconds=3
    )
    assert (report.spec.frames_per_step, report.spec.step_offset) == (8, 7)
    engine = fe.Engine(path)
    for samples in range(11_000, 11_000 + 8 * 160, 160):
        x = signals.chirp(samples / RATE, RATE)
        log_mel = torch.from_numpy(Frontend(PANNS).batch([x]))
        maps = outputs_of(module, ["0", "2"], log_mel)
        z, embedding = fused(maps, (4, 1), -(-log_mel.shape[2] // 8))
        close(engine.embed_frames(x), z)
        close(engine.embed(x), embedding)


@pytest.mark.parametrize("least", [32, 64])
def test_any_length_of_five_pools(tmp_path, least):
    module = nn.Sequential(nn.AvgPool2d((1, 8)), *[nn.AvgPool2d((2, 1)) for _ in range(5)])
    path = tmp_path / "x.onnx"
    report = export_module(
        module, path, layers=["2", "5"], frontend=PANNS, dynamic_from=least, seconds=5
    )
    assert (report.spec.frames_per_step, report.spec.step_offset) == (32, 0)
    x = signals.noise(4.03, RATE)
    maps = outputs_of(module, ["2", "5"], torch.from_numpy(Frontend(PANNS).batch([x])))
    steps = maps[1].shape[2]
    close(fe.Engine(path).embed(x), fused(maps, (8, 1), steps)[1])


def test_a_map_of_one_more_step_than_frames(tmp_path):
    module, path = nn.Sequential(nn.Conv2d(1, 2, (4, 8), stride=(1, 8), padding=(2, 0))), "x.onnx"
    report = export_module(module, tmp_path / path, layers=["0"], frontend=PANNS, frames=50)
    assert report.spec.steps(50) == 51
    x = signals.tone(0.49, RATE)
    (output,) = outputs_of(module, ["0"], torch.from_numpy(Frontend(PANNS).batch([x])))
    close(fe.Engine(tmp_path / path).embed_frames(x), fused([output], (1,), 51)[0])


@pytest.mark.parametrize("axes", ["BMT", "B1MT"])
def test_mel_bins_before_time(tmp_path, axes):
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Flatten(1, -2) if axes == "B1MT" else nn.Identity(), nn.Conv1d(64, 5, 3)
    )
    report = export_module(
        module,
        tmp_path / "x.onnx",
        layers=[ModuleLayer(name="1", axes="BCT")],
        frontend=PANNS,
        input_axes=axes,
        frames=60,
    )
    model = onnx.load(report.path)
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes[1:] == [1, 60, 64]  # the artifact's own order is always the same
    x = signals.tone(0.59, RATE)
    log_mel = torch.from_numpy(Frontend(PANNS).batch([x])).transpose(2, 3)
    with torch.no_grad():
        output = module(log_mel if axes == "B1MT" else log_mel[:, 0])
    close(fe.Engine(report.path).embed_frames(x), output[0])


def test_lengths_that_do_not_align(tmp_path):
    def attempt(module, layers=("a", "b"), **lengths):
        export_module(module, tmp_path / "x.onnx", layers=layers, frontend=PANNS, **lengths)

    class Thirds(Small):
        def forward(self, x):
            y = self.a(x)
            self.turned(y[:, :, ::3].permute(0, 3, 2, 1))
            self.pair(self.unused(y[:, :, ::4]))
            return self.b(y)

    with pytest.raises(ExportError, match=r"'turned' .*no pooling aligns .*stride does not divide"):
        attempt(
            Thirds(),
            [ModuleLayer(name="turned", axes="BFTC"), "unused"],
            dynamic_from=32,
            seconds=5,
        )
    upsampled = nn.Sequential(nn.Upsample(scale_factor=2))
    with pytest.raises(ExportError, match="'0' gives 200 steps for 100 frames, more than one"):
        attempt(upsampled, ["0"], frames=100)
    with pytest.raises(ExportError, match="give the input length"):
        attempt(Small())
    with pytest.raises(ExportError, match="both set the input"):
        attempt(Small(), frames=100, seconds=1.0)
    with pytest.raises(ExportError, match="dynamic_from=300 is above the most frames, 100"):
        attempt(Small(), frames=100, dynamic_from=300)
    with pytest.raises(ExportError, match="frames=0, expected at least 1"):
        attempt(Small(), frames=0)
    with pytest.raises(ExportError, match="input_axes='BTM1', expected one of"):
        attempt(Small(), frames=100, input_axes="BTM1")
    with pytest.raises(
        ExportError, match=r"Small does not run on log-mel \[1, 1, 1, 64\]: .*Check"
    ):
        attempt(Small(), frames=1)
    backwards = replace(PANNS, f_min=8000.0, f_max=50.0)
    with pytest.raises(ExportError, match=r"cannot be an artifact: .*mel range"):
        export_module(Small(), tmp_path / "x.onnx", layers=["a"], frontend=backwards, frames=100)
    for wrong in ({"frames": 100.0}, {"dynamic_from": True}):
        with pytest.raises(TypeError, match="must be an int"):
            attempt(Small(), **wrong)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got OrderedDict"):
        attempt(Small().state_dict(), frames=100)
    with pytest.raises(TypeError, match="must be a list of submodules, got the str 'a'"):
        attempt(Small(), "a", frames=100)
    assert not list(tmp_path.iterdir())
