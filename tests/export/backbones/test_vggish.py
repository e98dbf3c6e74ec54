import copy
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fusion_engine import ExportError
from fusion_engine.export import ExportReport, export, resolve
from fusion_engine.export.graph import backbone_module, trace_graph
from fusion_engine.export.verify import TOLERANCE
from fusion_engine.frontend import Frontend
from fusion_engine.spec import SegmentRule

from ...exports import VGGISH_LAYERS as ALL
from ...oracles import vggish_layers
from ...signals import SIGNALS, speech_like
from ..checkpoint.files import RunsCode
from ..structure import parameter_bytes, spec_of, strictly_inferred

# Channels, steps and bins of each ReLU after a convolution, and the length of the others.
SHAPES = {
    2: (64, 96, 64),
    5: (128, 48, 32),
    8: (256, 24, 16),
    10: (256, 24, 16),
    13: (512, 12, 8),
    15: (512, 12, 8),
    18: (4096,),
    20: (4096,),
    22: (128,),
}
SINGLE = [[number] for number in SHAPES]
MIXED = [[10, 15], [15, 2], [5, 13, 8]]

State = dict[str, torch.Tensor]


def log_mel_of(segments: int) -> torch.Tensor:
    """Segments of synthetic speech, all different."""
    frames = Frontend(resolve("vggish").frontend)(speech_like(0.96 * segments + 0.02, 16_000))
    return torch.from_numpy(frames[: 96 * segments].reshape(segments, 1, 96, 64))


def light(state: State) -> State:
    """The same names and shapes; the values take no memory."""
    return {name: torch.ones(()).expand(tensor.shape) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def oracle(torchvggish: torch.nn.Module) -> torch.nn.Module:
    return torchvggish


@pytest.fixture(scope="module")
def state(oracle: torch.nn.Module) -> State:
    return dict(oracle.state_dict())


@pytest.fixture(scope="module")
def artifact(vggish_all: ExportReport) -> ExportReport:
    """All nine layers, of the file as torchvggish saves it."""
    return vggish_all


def test_layers_are_those_of_torchvggish(oracle: torch.nn.Module) -> None:
    model = resolve("vggish")
    outputs = vggish_layers(oracle, log_mel_of(1))
    assert tuple(model.layers) == tuple(outputs) == tuple(SHAPES)
    for number, output in outputs.items():
        layer = model.layers[number]
        assert output.shape[1:] == SHAPES[number]
        if len(SHAPES[number]) == 1:
            assert (layer.kind, layer.dim) == ("vector", output.shape[1])
        else:
            # Eq. 1 pools every map to six steps a segment.
            shape = (layer.channels, 6 * layer.time_pool, layer.freq)
            assert (layer.kind, output.shape[1:]) == ("map", shape)
            assert layer.dim == 4096
    assert model.default_layers == (10, 15)


def test_every_layer_equals_torchvggish(artifact: ExportReport, oracle: torch.nn.Module) -> None:
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    exact = copy.deepcopy(oracle).double()
    for segments in (1, 2, 5):
        log_mel = log_mel_of(segments)
        expected = vggish_layers(exact, log_mel.double())
        outputs = session.run(None, {"log_mel": log_mel.numpy()})
        for number, got in zip(ALL, outputs, strict=True):
            want = expected[number].numpy()
            assert got.shape == want.shape == (segments, *SHAPES[number])
            assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), f"layer {number}"


def test_the_spec(artifact: ExportReport, vggish_checkpoint: Path) -> None:
    spec = artifact.spec
    assert spec.weights.sha256 == hashlib.sha256(vggish_checkpoint.read_bytes()).hexdigest()
    assert artifact.layers == ALL
    assert spec.embedding_dim == 6 * 4096 + 4096 + 4096 + 128
    assert spec.segment == SegmentRule(frames=96, last="drop")
    assert (spec.min_frames, spec.max_frames, spec.chunk_margin) == (96, 96, None)
    assert spec.frames_per_step == 16
    assert (spec.token, spec.layer_norm_eps) == (None, None)
    assert spec.frontend.preset == "vggish"
    assert artifact.bytes == artifact.path.stat().st_size


def test_both_formats_of_checkpoints(state: State) -> None:
    model = resolve("vggish")
    few = light(state) | {"embeddings.0.bias": torch.arange(4096.0)}
    port = {name.replace("embeddings", "fc"): tensor for name, tensor in few.items()}
    pca = {"pproc.pca_eigen_vectors": torch.ones(128, 128), "pproc.pca_means": torch.ones(128, 1)}
    for other in (few, port, {**few, **pca}):
        got = model.check_state(other, [22])
        assert got.keys() == state.keys()
        assert all(torch.equal(got[name], few[name]) for name in few)
        assert model.check_state(other, [15]).keys() == {n for n in state if "features" in n}


@pytest.mark.parametrize("layers", [*SINGLE[::3], *MIXED, list(ALL)], ids=str)
def test_the_graph(state: State, artifact: ExportReport, layers: list[int]) -> None:
    """Valid, of the stated interface, and nothing in it comes after the last layer."""
    if layers == list(ALL):
        graph = onnx.load(artifact.path)
    else:
        model = resolve("vggish")
        tensors = model.fold(model.check_state(state, layers))
        graph = trace_graph(backbone_module(model, tensors, layers), spec_of(model, layers))
    deepest = max(layers)
    convolutions = sum(number <= min(deepest, 15) for number in SHAPES)
    linears = sum(18 <= number <= deepest for number in SHAPES)
    pools = sum(number <= deepest for number in (5, 8, 13, 18))
    ops = Counter(Conv=convolutions, MaxPool=pools, Relu=convolutions + linears, Gemm=linears)
    ops += Counter(Transpose=1, Reshape=1) if linears else Counter()
    assert Counter(node.op_type for node in graph.graph.node) == ops
    # Convolutions and linear layers as torchvggish has them, and the two sizes of the Reshape.
    names = [f"features.{n - 2}." for n in (2, 5, 8, 10, 13, 15) if n <= deepest]
    names += [f"embeddings.{n - 18}." for n in (18, 20, 22) if n <= deepest]
    wanted = [tensor for name, tensor in state.items() if name.startswith(tuple(names))]
    assert parameter_bytes(graph) == (sum(4 * t.numel() for t in wanted), 16 if linears else 0)
    shapes = strictly_inferred(graph)
    assert shapes["log_mel"] == ["batch", 1, 96, 64]
    assert [value.name for value in graph.graph.output] == [f"layer_{n}" for n in layers]
    for number in layers:
        assert shapes[f"layer_{number}"] == ["batch", *SHAPES[number]]
    onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("choice", [{"frames": 95}, {"seconds": 2.0}, {"frames": 10}], ids=str)
def test_the_segment_is_no_choice(tmp_path: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="vggish takes segments of 96 and nothing else"):
        export("vggish", tmp_path / "a.onnx", weights="random:0", **choice)


def test_there_are_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="vggish has no tokens"):
        export("vggish", tmp_path / "a.onnx", weights="random:0", token="cls")


def test_unknown_layers(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\[3\]; vggish has layers 2, 5, 8, 10, 13, 15, 18, 20"):
        export("vggish", tmp_path / "a.onnx", weights="random:0", layers=[2, 3])


@pytest.mark.heavy
def test_random_weights(state: State) -> None:
    model = resolve("vggish")
    random = model.random_state(5)
    assert {n: (t.shape, t.dtype) for n, t in random.items()} == {
        n: (t.shape, t.dtype) for n, t in state.items()
    }
    again = model.random_state(5)
    assert all(torch.equal(random[name], again[name]) for name in random)
    kinds = [kind for kind in SIGNALS if kind != "silence"]
    clips = [SIGNALS[kind](0.975, 16_000, seed=4) for kind in kinds]
    with torch.inference_mode():
        log_mel = torch.from_numpy(Frontend(model.frontend).batch(clips))
        outputs = model.forward(random, log_mel, ALL)
    for number, output in zip(ALL, outputs, strict=True):
        for kind, row in zip(kinds, output, strict=True):
            assert 0.1 < row.std() < 10.0, f"layer {number}, {kind}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.weight": torch.ones(64, 64, 3, 3)}, r"features.3.weight is \[64, 64, 3, 3\]"),
        ({"features.13.bias": None}, "1 missing: features.13.bias"),
        ({"features.17.weight": torch.ones(1)}, "1 surplus: features.17.weight"),
        ({"features.0.bias": torch.full((64,), torch.inf)}, "1 not finite: features.0.bias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_that_does_not_fit(
    tmp_path: Path, state: State, change: dict[str, Any], message: str
) -> None:
    """Whatever the layers: a later block tells another model apart as well."""
    changed = {k: v for k, v in {**light(state), **change}.items() if v is not None}
    torch.save(changed, tmp_path / "vggish.pth")
    with pytest.raises(ExportError, match=f"weights vggish.pth for vggish: .*{message}"):
        export("vggish", tmp_path / "a.onnx", weights=tmp_path / "vggish.pth", layers=[2])
    assert not (tmp_path / "a.onnx").exists()


def test_another_head_after_the_convolutions(state: State) -> None:
    """It is not looked at where no fully connected layer is asked for."""
    few = light(state)
    tuned = {n: t for n, t in few.items() if n.startswith("features.")}
    tuned |= {"embeddings.0.weight": torch.ones(50, 12_288), "fc.bias": torch.ones(50)}
    got = resolve("vggish").check_state(tuned, [10, 15])
    assert got.keys() == resolve("vggish").check_state(few, [10, 15]).keys()
    with pytest.raises(ExportError, match=r"5 missing: embeddings\.0\.bias.*\[50, 12288\]"):
        resolve("vggish").check_state(tuned, [18])
    head = {**few, "fc.weight": torch.ones(50, 128)}
    assert resolve("vggish").check_state(head, [22]).keys() == few.keys()


def test_vgg16_is_not_vggish(tmp_path: Path) -> None:
    """torchvision's VGG has the same kind of names."""
    sizes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128)}
    state = {f"features.{n}.weight": torch.ones(()).expand(*s, 3, 3) for n, s in sizes.items()}
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(
        ExportError, match=r"missing: .*features.0.bias.*surplus: features.2.weight"
    ):
        export("vggish", tmp_path / "a.onnx", weights=tmp_path / "vgg16.pth")


def test_a_truncated_file_and_one_with_code(tmp_path: Path, state: State) -> None:
    path, target = tmp_path / "vggish.pth", tmp_path / "ran"
    torch.save(light(state), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ExportError, match="truncated"):
        export("vggish", tmp_path / "a.onnx", weights=path)
    torch.save({**light(state), "features.0.bias": RunsCode(target)}, path)
    with pytest.raises(ExportError, match="which is code"):
        export("vggish", tmp_path / "a.onnx", weights=path)
    assert list(tmp_path.iterdir()) == [path]


def test_checker_reads_the_file(artifact: ExportReport) -> None:
    onnx.checker.check_model(artifact.path, full_check=True)
