import math
from pathlib import Path

import pytest
import torch
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from fusion_engine import ExportError
from fusion_engine.export import backbones, resolve
from fusion_engine.export.checkpoint import load_weights
from fusion_engine.frontend import Frontend

from ...oracles import PANNS_SETTINGS, panns_layers, panns_models, random_log_mel
from ...signals import SIGNALS

pytestmark = pytest.mark.heavy

RATES = {"cnn14_8k": 8_000, "cnn14_16k": 16_000, "cnn14_32k": 32_000}
ALL = (1, 2, 3, 4, 5, 6, 7)

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return resolve("cnn14").random_state(0)


def test_catalogue() -> None:
    models = backbones()
    assert models["cnn14"] is models["cnn14_16k"]
    for name, rate in RATES.items():
        assert models[name].name == name
        assert models[name].frontend.sample_rate == rate
        assert models[name].default_layers == (3, 6)


def test_layers_are_those_of_pannsinference(panns_16k: torch.nn.Module) -> None:
    model = resolve("cnn14")
    outputs = panns_layers(panns_16k, random_log_mel(1, 64))
    assert tuple(model.layers) == tuple(outputs)
    for number, output in outputs.items():
        layer = model.layers[number]
        if number == 7:
            assert (layer.kind, output.shape) == ("vector", (1, layer.channels))
        else:
            # Eq. 1 pools every map to one step per 32 frames.
            shape = (1, layer.channels, layer.time_pool * (64 // 32), layer.freq)
            assert (layer.kind, output.shape) == ("map", shape)
    assert [model.layers[n].dim for n in ALL] == [2048, 2048, 2048, 2048, 2048, 4096, 2048]


@pytest.mark.heavy
def test_reach_and_margin(state: State) -> None:
    """A chunk's margin covers what a block's output depends on, found by differentiation."""
    model = resolve("cnn14")
    folded = model.fold(model.check_state(state, ALL))
    first, frames = 160, 384
    for number in range(1, 7):
        log_mel = random_log_mel(1, frames).requires_grad_()
        (output,) = model.forward(folded, log_mel, [number])
        step = 32 // model.layers[number].time_pool
        core = output[:, :, first // step : (first + 32) // step]
        (gradient,) = torch.autograd.grad(core.sum(), log_mel)
        (reached,) = torch.nonzero(gradient[0, 0].abs().sum(dim=1), as_tuple=True)
        reach = 2 ** (number + 1) - 2
        assert (reached.min(), reached.max()) == (first - reach, first + 31 + reach)
        assert model.chunk_margin([number]) == 32 * math.ceil(reach / 32)


def test_choices_that_follow_from_the_layers() -> None:
    model = resolve("cnn14")
    assert model.chunk_margin([3, 6]) == model.chunk_margin([6, 1]) == 128
    assert model.chunk_margin([5, 1]) == 64
    assert model.chunk_margin([7]) is model.chunk_margin([3, 7]) is None
    assert model.frames_per_step([7]) is None
    assert model.frames_per_step([7, 3]) == model.frames_per_step([1]) == 32


def test_reference_and_forward_equal_pannsinference(panns_16k_fp64: torch.nn.Module) -> None:
    model = resolve("cnn14")
    log_mel = random_log_mel(2, 97, seed=5).double()
    expected = panns_layers(panns_16k_fp64, log_mel)
    state = panns_16k_fp64.state_dict()
    with torch.no_grad():
        got = model.reference(state, log_mel, ALL)
        folded = {k: v.double() for k, v in model.fold(model.check_state(state, ALL)).items()}
        rounded = model.forward(folded, log_mel, ALL)
    for number, reference, forward in zip(ALL, got, rounded, strict=True):
        want = expected[number]
        scale = want.abs().max()
        assert (reference - want).abs().max() <= 1e-13 * scale  # the same FP64 operations
        # The folded weights are rounded once, to 6e-8.
        assert (forward - want).abs().max() <= 5e-7 * scale


@pytest.mark.heavy
def test_random_state_is_seeded_and_has_the_official_names(state: State) -> None:
    model = resolve("cnn14")
    names = panns_models().Cnn14(16_000, 512, 160, 64, 50, 8_000, 527).state_dict()
    frontend = {n for n in names if n.startswith(("spectrogram_extractor.", "logmel_extractor."))}
    assert state.keys() == names.keys() - frontend
    assert all(state[name].shape == names[name].shape for name in state)
    assert all(state[name].dtype == names[name].dtype for name in state)
    again, other = model.random_state(0), model.random_state(1)
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not any(torch.equal(state[name], other[name]) for name in state if "batches" not in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RATES)
def test_random_weights_keep_the_activations_alive(name: str) -> None:
    model = resolve(name)
    folded = model.fold(model.check_state(model.random_state(11), ALL))
    frontend = Frontend(model.frontend)
    alive: dict[int, torch.Tensor] = {}
    for kind, signal in SIGNALS.items():
        if kind == "silence":
            continue
        log_mel = frontend(signal(1.3, RATES[name], seed=4)).reshape(1, 1, -1, 64)
        with torch.inference_mode():
            outputs = model.forward(folded, torch.from_numpy(log_mel), ALL)
        for number, output in zip(ALL, outputs, strict=True):
            assert 0.1 < output.std() < 10.0, f"layer {number}, {kind}"
            fired = (output > 0).flatten(2).any(2)[0] if number < 7 else output[0] > 0
            alive[number] = alive.get(number, torch.zeros_like(fired)) | fired
    for number, channels in alive.items():
        dead = 1.0 - channels.float().mean().item()
        assert dead <= (0.01 if number < 7 else 0.3), f"layer {number}: {dead:.0%} dead"


@pytest.fixture
def official(panns_16k: torch.nn.Module) -> State:
    """The published checkpoint's names and shapes; the values take no memory."""
    return {
        name: tensor if "extractor" in name else torch.ones(()).expand(tensor.shape)
        for name, tensor in panns_16k.state_dict().items()
    }


def frontend_of(sample_rate: int, f_max: float | None = None) -> State:
    """The tensors of PANNs' frontend in a checkpoint."""
    window, hop, default = PANNS_SETTINGS[sample_rate]
    mel = LogmelFilterBank(sample_rate, window, 64, 50, f_max or default)
    stft = Spectrogram(window, hop, window).stft
    return {
        "logmel_extractor.melW": mel.melW,
        "spectrogram_extractor.stft.conv_real.weight": stft.conv_real.weight,
        "spectrogram_extractor.stft.conv_imag.weight": stft.conv_imag.weight,
    }


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def test_only_what_the_layers_need_is_kept(official: State) -> None:
    model = resolve("cnn14")
    convs = [f"conv_block{b}.{part}" for b in (1, 2) for part in ("conv1.weight", "conv2.weight")]
    norms = [n for n in official if n.startswith(("bn0", "conv_block1.bn", "conv_block2.bn"))]
    kept = model.check_state(official, [2, 1])
    assert kept.keys() == {*convs, *norms} - {n for n in norms if "batches" in n}
    assert "fc1.weight" not in model.check_state(official, [6])
    assert "fc1.weight" in model.check_state(official, [7])


@pytest.mark.parametrize(
    "prefixes",
    [("spectrogram_extractor.", "logmel_extractor."), ("fc_audioset.",), ("fc1.", "fc_audioset.")],
    ids=str,
)
def test_frontend_and_head_are_not_needed(official: State, prefixes: tuple[str, ...]) -> None:
    resolve("cnn14").check_state(without(official, *prefixes), [3, 6])


def test_a_head_for_other_classes_is_not_looked_at(official: State) -> None:
    state = {**official, "fc_audioset.weight": torch.ones(50, 2048)}
    resolve("cnn14").check_state(state, [7])


def test_the_embedding_needs_its_layer(official: State) -> None:
    with pytest.raises(ExportError, match=r"2 missing: fc1\.weight, fc1\.bias"):
        resolve("cnn14").check_state(without(official, "fc1."), [3, 7])


@pytest.mark.parametrize("layers", [[1], [7]], ids=str)
def test_another_model_is_refused_whatever_the_layer(official: State, layers: list[int]) -> None:
    """PANNs' Cnn10 has four blocks and an embedding of 512, its Wavegram a wider second block."""
    model = resolve("cnn14")
    cnn10 = without(official, "conv_block5", "conv_block6")
    cnn10["fc1.weight"] = torch.ones(512, 512)
    with pytest.raises(ExportError, match="20 missing: conv_block5"):
        model.check_state(cnn10, layers)
    wider = {
        "conv_block2.conv1.weight": torch.ones(128, 128, 3, 3),
        "pre.bias": torch.ones(1),
    }
    with pytest.raises(ExportError, match=r"surplus: pre.bias; .*is \[128, 128, 3, 3\], expected"):
        model.check_state({**official, **wider}, layers)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("of", RATES)
@pytest.mark.parametrize("tensors", ["logmel_extractor.", "spectrogram_extractor."])
def test_the_frontend_in_the_checkpoint_must_be_the_models(
    official: State, name: str, of: str, tensors: str
) -> None:
    frontend = {k: v for k, v in frontend_of(RATES[of]).items() if k.startswith(tensors)}
    state = {**without(official, "spectrogram_", "logmel_"), **frontend}
    if name == of:
        resolve(name).check_state(state, [1])
    else:
        with pytest.raises(ExportError, match=f"that of {of}, not of {name}: export {of}"):
            resolve(name).check_state(state, [1])


def test_mel_filters_of_no_known_model(official: State) -> None:
    state = {**official, **frontend_of(16_000, f_max=7_000.0)}
    with pytest.raises(ExportError, match="mel filters are not those of cnn14_16k"):
        resolve("cnn14").check_state(state, [1])


def light(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names and shapes; matrices take no memory."""
    return {n: torch.ones(()).expand(t.shape) if t.ndim == 4 else t for n, t in state.items()}


def test_the_transfer_models_of_panns(
    panns_16k: torch.nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their ``base`` is a whole Cnn14 and ``fc_transfer`` the new head."""
    bare = light(panns_16k.state_dict())
    own = {f"base.{name}": tensor for name, tensor in bare.items()}
    own |= {"fc_transfer.weight": torch.ones(10, 2048), "fc_transfer.bias": torch.ones(10)}
    path = tmp_path / "transfer.pth"
    want = resolve("cnn14").check_state(bare, [3, 6, 7])
    for wrapper in ("", "module.", "model._orig_mod."):
        named = {f"{wrapper}{name}": tensor for name, tensor in own.items()}
        torch.save({"iteration": 3, "model": named}, path)
        state, _ = load_weights(resolve("cnn14"), path)
        got = resolve("cnn14").check_state(state, [3, 6, 7])
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)
    assert caplog.text == ""


def test_heads_of_another_name_and_size(
    panns_16k: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    state = light(panns_16k.state_dict())
    del state["fc_audioset.weight"], state["fc_audioset.bias"]
    state |= {"fc1.weight": torch.ones(512, 2048), "classifier.weight": torch.ones(3, 512)}
    assert "bn0.weight" in resolve("cnn14").check_state(state, [3, 6])
    assert "classifier of the checkpoint: not the model's own" in caplog.text
    with pytest.raises(ExportError, match=r"fc1\.weight is \[512, 2048\], expected \[2048, 2048\]"):
        resolve("cnn14").check_state(state, [7])
    state["conv_block7.conv1.weight"] = torch.ones(1)
    with pytest.raises(ExportError, match=r"1 surplus: conv_block7\.conv1\.weight"):
        resolve("cnn14").check_state(state, [3, 6])


def test_negative_variances_are_refused(panns_16k: torch.nn.Module) -> None:
    state = light(panns_16k.state_dict())
    state["conv_block2.bn1.running_var"] = -torch.ones(128)
    with pytest.raises(ExportError, match=r"conv_block2\.bn1\.running_var hold negative variances"):
        resolve("cnn14").check_state(state, [3, 6])
