import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fusion_engine import ExportError
from fusion_engine.export import ExportReport, export, resolve
from fusion_engine.export.backbones.ast import Ast, fit_positions
from fusion_engine.export.checkpoint import load_weights
from fusion_engine.export.graph import backbone_module, trace_graph
from fusion_engine.export.verify import TOLERANCE
from fusion_engine.frontend import Frontend
from fusion_engine.spec import SegmentRule

from ...exports import AST_LAYERS as ALL
from ...oracles import ast_layers, ast_original_names, ast_positions
from ...signals import SIGNALS, speech_like
from ..checkpoint.files import RunsCode
from ..structure import parameter_bytes, spec_of, strictly_inferred

SINGLE = [[1], [2], [3], [4], [5], [6], [12]]
MIXED = [[3, 1], [1, 3, 2], [2, 1]]  # and all twelve in an artifact
PREFIX = "audio_spectrogram_transformer."

State = dict[str, torch.Tensor]


def log_mel_of(frames: int, batch: int = 1) -> torch.Tensor:
    """Normalised fbank of synthetic speech, every clip with another voice."""
    frontend = Frontend(resolve("ast").frontend)
    samples = frontend.spec.samples(frames)
    clips = [speech_like(samples / 16_000, 16_000, seed=seed) for seed in range(batch)]
    return torch.from_numpy(frontend.batch(clips))


def assert_equals(report: ExportReport, model: Any, log_mel: torch.Tensor) -> None:
    """Every layer of an artifact against transformers' model in FP64."""
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"log_mel": log_mel.numpy()})
    eps = report.spec.layer_norm_eps
    expected = ast_layers(model, log_mel.double(), eps=eps, depth=max(report.layers))
    for number, got in zip(report.layers, outputs, strict=True):
        tokens = expected[number][:, :2].numpy()
        want = tokens[:, 0] if report.spec.token == "cls" else tokens.mean(axis=1)
        assert got.shape == want.shape == (len(log_mel), 768)
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), f"layer {number}"


@pytest.fixture(scope="module")
def classifier(ast_classifier: torch.nn.Module) -> Any:
    return ast_classifier


@pytest.fixture(scope="module")
def oracle(classifier: Any) -> Any:
    """transformers' ASTModel in FP64."""
    return copy.deepcopy(classifier.audio_spectrogram_transformer).double()


@pytest.fixture(scope="module")
def state(classifier: Any) -> State:
    return dict(classifier.audio_spectrogram_transformer.state_dict())


@pytest.fixture(scope="module")
def original(state: State) -> State:
    return ast_original_names(state)


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state dict of transformers' model, with the names of this version of it."""
    path = tmp_path_factory.mktemp("ast") / "ast.pth"
    torch.save(state, path)
    yield path
    path.unlink()  # 340 MB, and pytest keeps the folders of the last runs


@pytest.fixture(scope="module")
def one_second(ast_second: ExportReport) -> ExportReport:
    """All twelve layers for 1 s, of a file in the original format."""
    return ast_second


@pytest.mark.slow
def test_one_second(one_second: ExportReport, oracle: Any) -> None:
    assert one_second.spec.layer_norm_eps == 1e-6
    assert one_second.spec.max_frames == 98
    assert_equals(one_second, oracle, log_mel_of(98, batch=3))


@pytest.mark.heavy
def test_the_epsilons_are_told_apart(oracle: Any) -> None:
    """What the tests of both families rest on."""
    log_mel = log_mel_of(98).double()
    layers = [ast_layers(oracle, log_mel, eps=eps) for eps in (1e-6, 1e-12)]
    for number in ALL:
        difference = (layers[0][number] - layers[1][number]).abs().max()
        assert difference > 1e-3 * layers[1][number].abs().max()


@pytest.mark.heavy
def test_five_seconds_of_the_file_that_transformers_writes(
    tmp_path: Path, classifier: Any, oracle: Any
) -> None:
    """``save_pretrained`` keeps the names of the hub."""
    classifier.save_pretrained(tmp_path)
    checkpoint = tmp_path / "model.safetensors"
    report = export("ast", tmp_path / "ast.onnx", layers=(2, 1), weights=checkpoint, seconds=5.0)
    checkpoint.unlink()
    assert report.spec.layer_norm_eps == 1e-12
    assert report.spec.max_frames == 498
    assert_equals(report, oracle, log_mel_of(498))


@pytest.mark.heavy
def test_every_layer_at_five_seconds(state: State, oracle: Any) -> None:
    """What is traced, untraced: the twelve layers with other positions."""
    log_mel = log_mel_of(498)
    model = Ast(frames=498).for_checkpoint(state)
    with torch.inference_mode():
        outputs = model.forward(model.fold(model.check_state(state, ALL)), log_mel, ALL)
    expected = ast_layers(oracle, log_mel.double(), eps=1e-12)
    for number, got in zip(ALL, outputs, strict=True):
        want = expected[number][:, :2].mean(dim=1)
        assert (got - want).abs().max() <= TOLERANCE * want.abs().max(), f"layer {number}"


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "layers"), [(None, (2, 1)), (1_204, (1,)), (16, (1, 3))])
def test_other_lengths_and_the_cls_token(
    tmp_path: Path, checkpoint: Path, oracle: Any, frames: int | None, layers: tuple[int, ...]
) -> None:
    """The default length, one that needs interpolation, the shortest."""
    path = tmp_path / "ast.onnx"
    report = export("ast", path, layers=layers, weights=checkpoint, frames=frames, token="cls")
    length = frames or 1024
    assert (report.spec.token, report.spec.layer_norm_eps) == ("cls", 1e-12)
    assert report.spec.segment == SegmentRule(frames=length, last="pad")
    assert_equals(report, oracle, log_mel_of(length))


@pytest.mark.parametrize("frames", [16, 25, 26, 98, 498, 1015, 1016, 1024, 1025, 1026, 2048, 6000])
def test_positions_follow_the_original(frames: int) -> None:
    released = torch.randn(
        1, 2 + 12 * 101, 768, generator=torch.Generator().manual_seed(1)
    ).double()
    got = fit_positions(released[:, 2:], frames)
    assert torch.equal(got, ast_positions(released, frames)[:, 2:])


def test_the_spec(one_second: ExportReport) -> None:
    spec = one_second.spec
    assert one_second.layers == ALL
    assert spec.embedding_dim == 12 * 768
    assert all((layer.kind, layer.dim) == ("vector", 768) for layer in spec.layers)
    assert spec.segment == SegmentRule(frames=98, last="pad")
    assert (spec.min_frames, spec.max_frames) == (98, 98)
    assert (spec.frames_per_step, spec.chunk_margin) == (None, None)
    assert spec.token == "cls_dist_mean"
    assert (spec.frontend.mean, spec.frontend.std) == (-4.2677393, 4.5689974)
    assert resolve("ast").default_layers == (5, 12)
    assert resolve("ast").max_frames == 1024


@pytest.fixture(scope="module")
def random() -> State:
    return resolve("ast").random_state(3)


@pytest.mark.heavy
@pytest.mark.parametrize("layers", [[2], [1, 3, 2], list(ALL)], ids=str)
def test_the_graph(request: pytest.FixtureRequest, layers: list[int]) -> None:
    """Valid, of the stated interface, and nothing in it comes after the last layer."""
    model = Ast(frames=98)
    depth = max(layers)
    if layers == list(ALL):
        graph = onnx.load(request.getfixturevalue("one_second").path)
    else:
        tensors = model.fold(model.check_state(request.getfixturevalue("random"), layers))
        graph = trace_graph(backbone_module(model, tensors, layers), spec_of(model, layers))
    ops = Counter(node.op_type for node in graph.graph.node)
    assert ops["LayerNormalization"] == 2 * depth + len(layers)
    assert (ops["MatMul"], ops["Softmax"], ops["Erf"]) == (8 * depth, depth, depth)
    assert ops.keys() <= {
        *("Add", "Conv", "Div", "Erf", "LayerNormalization", "MatMul", "Mul", "Pad"),
        *("ReduceMean", "Reshape", "Slice", "Softmax", "Transpose"),
    }
    # Patches and the last LayerNorm; four attention matrices, two of the MLP, two LayerNorms each.
    parameters = 768 * 256 + 768 + 2 * 768
    parameters += depth * (4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768)
    positions = (2 + 12 * 9) * 768
    held, rest = parameter_bytes(graph)
    assert held == 4 * parameters
    assert 4 * positions < rest < 4 * positions + 500  # shapes and scalars
    shapes = strictly_inferred(graph)
    assert shapes["log_mel"] == ["batch", 1, 98, 128]
    assert [value.name for value in graph.graph.output] == [f"layer_{n}" for n in layers]
    assert all(shapes[f"layer_{number}"] == ["batch", 768] for number in layers)
    onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def test_attention_is_plain(one_second: ExportReport) -> None:
    """Every Softmax stands between two MatMuls, and the epsilon is an attribute."""
    graph = onnx.load(one_second.path, load_external_data=False).graph
    maker = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    softmax = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmax) == 12
    for node in softmax:
        assert maker[node.input[0]].op_type == readers[node.output[0]].op_type == "MatMul"
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * 12 + 12
    for node in norms:
        (epsilon,) = (a.f for a in node.attribute if a.name == "epsilon")
        assert epsilon == np.float32(1e-6)


def light(state: State) -> State:
    """The same names and shapes; matrices take no memory."""
    return {
        name: tensor if tensor.ndim == 1 else torch.ones(()).expand(tensor.shape)
        for name, tensor in state.items()
    }


def hub_names(state: State) -> State:
    """What ``save_pretrained`` writes, see the test with a file of its own."""
    pairs = (
        ("layers.", "encoder.layer."),
        *((f"{part[0]}_proj", f"attention.{part}") for part in ("query", "key", "value")),
        ("o_proj", "output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )
    out = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        out[name] = tensor
    return out


def test_all_families_of_checkpoints(state: State, original: State) -> None:
    """Original, and file and state dict of transformers, wrapped and bare: the same tensors."""
    few = light(state)
    bare = {name.removeprefix("module."): t for name, t in light(original).items()}
    head = {"classifier.layernorm.weight": torch.ones(768), "classifier.dense.bias": torch.ones(3)}
    wrapped = {f"{PREFIX}{name}": tensor for name, tensor in few.items()} | head
    in_hub = {f"{PREFIX}{name}": tensor for name, tensor in hub_names(few).items()} | head
    want = Ast().check_state(bare, [2])
    for family, eps in (
        (bare, 1e-6),
        (few, 1e-12),
        (wrapped, 1e-12),
        (hub_names(few), 1e-12),
        (in_hub, 1e-12),
    ):
        model = resolve("ast").for_checkpoint(family)
        assert model.layer_norm_eps == eps
        got = model.check_state(family, [2])
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_later_blocks_are_not_kept(random: State) -> None:
    kept = resolve("ast").check_state(random, [2, 1])
    assert {n.split(".")[2] for n in kept if n.startswith("v.blocks.")} == {"0", "1"}
    assert {n for n in random if not n.startswith("v.blocks.")} < kept.keys()


@pytest.mark.heavy
def test_random_weights(random: State, original: State) -> None:
    official = {n.removeprefix("module."): t for n, t in original.items() if "head" not in n}
    assert {n: t.shape for n, t in random.items()} == {n: t.shape for n, t in official.items()}
    again = resolve("ast").random_state(3)
    assert all(torch.equal(random[name], again[name]) for name in random)
    model = Ast(frames=98)
    clips = [signal(1.0, 16_000, seed=4) for signal in SIGNALS.values()]
    log_mel = torch.from_numpy(Frontend(model.frontend).batch(clips))
    with torch.inference_mode():
        outputs = model.reference(random, log_mel, ALL)
    for number, output in zip(ALL, outputs, strict=True):
        for kind, row in zip(SIGNALS, output, strict=True):
            assert 0.1 < row.std() < 10.0, f"layer {number}, {kind}"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"frames": 15}, r"15 frames: ast takes at least 16 \(0.175 s\)"),
        ({"seconds": 0.1}, "8 frames: ast takes at least 16"),
        ({"token": "mean"}, "token='mean': expected 'cls_dist_mean' or 'cls'"),
        ({"layers": [13]}, r"unknown layers \[13\]; ast has layers 1, 2"),
        ({"frames": 98, "seconds": 1.0}, "give one"),
    ],
    ids=str,
)
def test_wrong_choices(tmp_path: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export("ast", tmp_path / "a.onnx", weights="random:0", **choice)
    assert list(tmp_path.iterdir()) == []


def test_other_models_have_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cnn14_16k has no tokens"):
        export("cnn14", tmp_path / "a.onnx", weights="random:0", token="cls_dist_mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Another stride of the patches gives another grid.
        (
            {"embeddings.position_embeddings": torch.ones(1, 514, 768)},
            r"embeddings.position_embeddings is \[1, 514, 768\], expected \[1, 2 \+ 12·t, 768\]",
        ),
        ({"layers.11.mlp.fc2.bias": None}, "1 missing: layers.11.mlp.fc2.bias"),
        ({"layers.12.mlp.fc2.bias": torch.ones(768)}, "1 surplus: layers.12.mlp.fc2.bias"),
        ({"layernorm.bias": torch.full((768,), torch.nan)}, "1 not finite: layernorm.bias"),
        ({"layers.0.attention.q_proj.weight": torch.ones(768, 64)}, r"q_proj.weight is \[768, 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_that_does_not_fit(state: State, change: dict[str, Any], message: str) -> None:
    """The names in the error are those in the file; later blocks count, whatever the layers."""
    changed = {k: v for k, v in {**light(state), **change}.items() if v is not None}
    with pytest.raises(ExportError, match=message):
        resolve("ast").for_checkpoint(changed).check_state(changed, [1])


def resized(state: State, patches: int) -> State:
    """The light state dict of a model that was trained for ``patches`` in time."""
    positions = torch.randn(1, 2 + 12 * patches, 768, generator=torch.Generator().manual_seed(2))
    return {**light(state), "embeddings.position_embeddings": positions}


@pytest.mark.parametrize(
    ("patches", "frames"), [(12, 128), (50, 512), (101, 1024), (99, 996), (1, 16), (204, 2048)]
)
def test_the_length_of_a_fine_tuned_file_is_taken(state: State, patches: int, frames: int) -> None:
    changed = resized(state, patches)
    model = resolve("ast").for_checkpoint(changed)
    assert (model.min_frames, model.max_frames) == (frames, frames)
    assert model.segment == SegmentRule(frames=frames, last="pad")
    kept = model.check_state(changed, [1])["v.pos_embed"]
    assert torch.equal(kept, changed["embeddings.position_embeddings"])
    # As transformers counts them: the embedding is what was trained, every patch in its place.
    got = fit_positions(kept[:, 2:].double(), frames)
    assert torch.allclose(got, kept[:, 2:].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [128, 300, 800])
def test_a_fine_tuned_file_at_another_length(state: State, frames: int) -> None:
    """Cut from the middle, or interpolated, from the file's own columns."""
    changed = resized(state, 50)
    model = resolve("ast").configured(frames=frames, token=None).for_checkpoint(changed)
    assert model.max_frames == frames
    positions = model.check_state(changed, [1])["v.pos_embed"][:, 2:].double()
    grid = positions.reshape(1, 12, 50, 768).permute(0, 3, 1, 2)
    count = (frames - 16) // 10 + 1
    if count < 50:
        grid = grid[..., 25 - count // 2 : 25 - count // 2 + count]
    else:
        grid = torch.nn.functional.interpolate(grid, (12, count), mode="bilinear")
    want = grid.permute(0, 2, 3, 1).reshape(1, 12 * count, 768)
    assert torch.equal(fit_positions(positions, frames), want)


def test_a_folder_of_transformers(tmp_path: Path, state: State) -> None:
    """What ``save_pretrained`` writes beside the weights is held to what can be exported."""
    from transformers import ASTConfig

    few = {f"{PREFIX}{name}": tensor for name, tensor in resized(state, 50).items()}
    torch.save(few | {"classifier.dense.bias": torch.ones(50)}, tmp_path / "pytorch_model.bin")
    ASTConfig(max_length=512).save_pretrained(tmp_path)
    read, source = load_weights(resolve("ast"), tmp_path)
    assert source.source == tmp_path.name
    assert resolve("ast").for_checkpoint(read).max_frames == 512
    with pytest.raises(ExportError, match="expected a checkpoint file, got a folder"):
        load_weights(resolve("cnn14"), tmp_path)
    for change, message in (
        ({"time_stride": 16}, "time_stride '16', expected 10"),
        ({"num_hidden_layers": 6}, "num_hidden_layers '6', expected 12"),
    ):
        ASTConfig(**change).save_pretrained(tmp_path)
        with pytest.raises(ExportError, match=message):
            load_weights(resolve("ast"), tmp_path)
    (tmp_path / "config.json").write_text("[" * 10_000)
    with pytest.raises(ExportError, match="not a configuration in JSON"):
        load_weights(resolve("ast"), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ExportError, match=r"this one has no config\.json"):
        load_weights(resolve("ast"), tmp_path)


@pytest.mark.parametrize("wrapper", ["module.", "model.module.", "_orig_mod.", "net."])
def test_the_original_in_wrappers(tmp_path: Path, original: State, wrapper: str) -> None:
    bare = {name.removeprefix("module."): tensor for name, tensor in light(original).items()}
    path = tmp_path / "ast.pth"
    torch.save({"state_dict": {f"{wrapper}{n}": t for n, t in bare.items()}}, path)
    state, _ = load_weights(resolve("ast"), path)
    assert resolve("ast").check_state(state, [2]).keys() == Ast().check_state(bare, [2]).keys()


def test_a_vision_transformer_is_not_ast(tmp_path: Path, original: State) -> None:
    """timm's distilled DeiT, from which AST was made, sees three colours and has no ``v.``."""
    deit = {name.removeprefix("module.v."): tensor for name, tensor in light(original).items()}
    torch.save(deit, tmp_path / "deit.pth")
    with pytest.raises(ExportError, match=r"missing: v\.cls_token.*surplus"):
        export("ast", tmp_path / "a.onnx", weights=tmp_path / "deit.pth")
    assert not (tmp_path / "a.onnx").exists()


def test_a_truncated_file_and_one_with_code(tmp_path: Path, original: State) -> None:
    path, target = tmp_path / "ast.pth", tmp_path / "ran"
    torch.save(light(original), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ExportError, match="truncated"):
        export("ast", tmp_path / "a.onnx", weights=path)
    torch.save({**light(original), "module.v.norm.bias": RunsCode(target)}, path)
    with pytest.raises(ExportError, match="which is code"):
        export("ast", tmp_path / "a.onnx", weights=path)
    assert list(tmp_path.iterdir()) == [path]
