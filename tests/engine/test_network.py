"""Graphs that are not what their spec says: refused when they are opened, or at the first run."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusion_engine as fe
from fusion_engine.engine.network import check_outputs, shape_problems
from fusion_engine.spec import METADATA_KEY, LayerSpec

from .cuda.artifacts import CHUNKED, DROPPED, PADDED, SPECS, write_artifact

CLIP = np.zeros(16_000, np.float32)


@pytest.fixture
def opened(tmp_path):
    """``opened(graph, spec, edit)``: its engine, the graph written for another spec."""

    def get(graph, spec=None, edit=lambda model: None):
        path = write_artifact(tmp_path / "a.onnx", graph)
        model = onnx.load(path)
        if spec is not None:
            (entry,) = (e for e in model.metadata_props if e.key == METADATA_KEY)
            entry.value = spec.to_json()
        edit(model)
        onnx.save(model, path)
        return fe.Engine(path, device="cpu", threads=1)

    return get


def test_clips_shorter_than_the_reflection_at_their_ends(opened):
    """A frontend needs more samples than one frame says, where it reflects them."""
    front = replace(CHUNKED.frontend, n_mels=PADDED.frontend.n_mels)
    padded = opened(replace(PADDED, frontend=front))
    layer = replace(CHUNKED.layers[1], time_pool=1)
    small = {"layers": (layer,), "embedding_dim": layer.dim, "chunk_margin": None}
    spec = replace(CHUNKED, min_frames=1, frames_per_step=1, **small)
    single = opened(CHUNKED, spec, lambda model: model.graph.output.pop(0))
    for engine in (padded, single):
        for samples in (1, 100, 256, 257, 400):
            assert np.isfinite(engine.embed(CLIP[:samples])).all()


def test_a_sum_over_time_that_overflows_is_an_error(opened):
    """Of layer outputs that are finite, each of them."""

    def large(model):
        (bias,) = (i for i in model.graph.initializer if i.name == "b2")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(16, 1e38, np.float32), "b2"))

    for spec in (CHUNKED, DROPPED):
        engine = opened(spec, edit=large)
        assert all(np.isfinite(output).all() for output in engine.layer_outputs(CLIP).values())
        with pytest.raises(fe.NumericalError, match=r"clip 0: .*sum over time overflows"):
            engine.embed([CLIP, CLIP])


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_graphs_that_fit(opened, spec):
    assert opened(spec).embed(CLIP).shape == (spec.embedding_dim,)


def layers(*changes):
    made = [replace(layer, **change) for layer, change in zip(CHUNKED.layers, changes, strict=True)]
    return {"layers": tuple(made), "embedding_dim": sum(layer.dim for layer in made)}


@pytest.mark.parametrize(
    ("graph", "changes", "message"),
    [
        (CHUNKED, layers({"channels": 17}, {}), r"layer_2 is \[\?, 16, \?, 32\], .*17, \?, 32\]"),
        (CHUNKED, layers({}, {"freq": 32}), r"layer_1 is \[\?, 12, \?, 64\], .*12, \?, 32\]"),
        (
            CHUNKED,
            layers({"kind": "vector", "freq": 1, "time_pool": 1}, {}) | {"chunk_margin": None},
            r"layer_2 is \[\?, 16, \?, 32\], expected \[\?, 16\]",
        ),
        (
            CHUNKED,
            {"frontend": replace(CHUNKED.frontend, n_mels=80)},
            r"log_mel is \[\?, 1, \?, 64\], expected \[\?, 1, \?, 80\]",
        ),
        (
            DROPPED,
            {
                "segment": replace(DROPPED.segment, frames=100),
                "min_frames": 100,
                "max_frames": 100,
            },
            r"log_mel is \[\?, 1, 96, 64\], expected \[\?, 1, 100, 64\]",
        ),
        (
            DROPPED,
            {"segment": None},
            r"log_mel is \[\?, 1, 96, 64\], expected \[\?, 1, \?, 64\]",
        ),
        (
            PADDED,
            {
                "layers": (
                    LayerSpec(number=5, kind="vector", channels=12),
                    LayerSpec(number=3, kind="vector", channels=16),
                )
            },
            r"layer_5 is \[\?, 16\], expected \[\?, 12\]",
        ),
    ],
)
def test_another_graph_is_refused_when_it_is_opened(opened, graph, changes, message):
    with pytest.raises(fe.ArtifactError, match=r"a\.onnx: .*what its spec says: .*" + message):
        opened(graph, replace(graph, **changes))


def test_a_graph_of_one_batch_size_or_another_type_is_refused(opened):
    def one(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(fe.ArtifactError, match=r"log_mel is \[1, 1, \?, 64\], expected \[\?, 1"):
        opened(CHUNKED, edit=one)

    def double(model):
        (name,) = (value.name for value in model.graph.output if value.name == "layer_1")
        for node in model.graph.node:
            node.input[:] = ["r1" if given == name else given for given in node.input]
            node.output[:] = ["r1" if given == name else given for given in node.output]
        model.graph.node.append(helper.make_node("Cast", ["r1"], [name], to=TensorProto.DOUBLE))
        model.graph.output[1].type.tensor_type.elem_type = TensorProto.DOUBLE

    with pytest.raises(fe.ArtifactError, match=r"layer_1 is 'tensor\(double\)', expected tensor"):
        opened(CHUNKED, edit=double)


@pytest.mark.parametrize(
    "changes",
    [
        layers({"time_pool": 4}, {}),
        layers({"time_pool": 4}, {"time_pool": 8}),
        {"frames_per_step": 2},
    ],
    ids=["one layer", "both", "the step"],
)
def test_time_that_is_not_the_spec_s_is_found_at_the_first_run(opened, changes):
    """Sizes that a graph leaves open; what is not there would be read as an embedding."""
    engine = opened(CHUNKED, replace(CHUNKED, **changes))
    for call in (engine.embed, engine.embed_frames, engine.layer_outputs):
        with pytest.raises(fe.ArtifactError, match=r"layer_\d is \[1, .*101 frames.*spec says"):
            call(CLIP)


def test_fixed_lengths():
    shapes = {"log_mel": (-1, 1, 96, 64), "layer_2": (-1, 16, 48, 32), "layer_1": ("S", 12, 96, 64)}
    assert list(shape_problems(DROPPED, shapes)) == []
    short = shapes | {"layer_2": (-1, 16, 47, 32)}
    (problem,) = shape_problems(DROPPED, short)
    assert problem == "layer_2 is [?, 16, 47, 32], and its spec pools time by 2"


def test_outputs_of_a_run():
    good = [np.zeros((3, 16, 50, 32)), np.zeros((3, 12, 101, 64))]
    check_outputs(CHUNKED, (3, 1, 101, 64), [output.shape for output in good])
    for bad in (
        [good[0][:2], good[1]],
        [good[0][:, :15], good[1]],
        [good[0][:, :, :47], good[1]],
        [good[0], good[1][..., :63]],
        [good[0], good[1][:, :, :, 0]],
    ):
        with pytest.raises(fe.ArtifactError, match="not what its spec says"):
            check_outputs(CHUNKED, (3, 1, 101, 64), [output.shape for output in bad])
