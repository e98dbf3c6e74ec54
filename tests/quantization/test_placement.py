"""Which convolutions, products and activations become 8-bit."""

import onnx
import pytest

from fusion_engine.quantization.placement import place

from ..exports import with_layers
from .graphs import residual


def test_cnn14(two_layers):
    placement = place(onnx.load(two_layers).graph)
    assert [(p.name, p.axis) for p in placement.products] == [
        ("conv_block1.conv2", 0),
        ("conv_block2.conv1", 0),
        ("conv_block2.conv2", 0),
    ]
    # What they read, and before the average pool its input; no layer output is rounded by itself.
    sources = {product.source for product in placement.products}
    assert sources < set(placement.values)
    assert not placement.kept
    assert not placement.shared, "an average has a range of its own"


def test_a_residual_block():
    placement = place(residual().graph)
    # Not the convolution of log-mel, nor the one that has an input channel for each output.
    assert [p.name for p in placement.products] == ["a", "b", "c", "head"]
    assert [p.output for p in placement.products] == ["a_relu", "b", "c", "layer_1"]
    assert [p.axis for p in placement.products] == [0, 0, 0, -1]
    # Both inputs of the sum that a convolution gives; the max-pool lets its input's scale through.
    assert placement.values == ("x", "a_relu", "b", "sum_relu", "pooled", "deep", "c", "both")
    assert placement.shared == {"pooled": "sum_relu"}
    assert placement.scale_of("pooled") == "sum_relu"


def test_kept_products_and_what_led_to_them_alone():
    placement = place(residual().graph, ["a", "head"])
    assert [p.name for p in placement.products] == ["b", "c"]
    assert [p.name for p in placement.kept] == ["a", "head"]
    assert "both" not in placement.values


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"no layer nothing can be in 8 bits; expected .*a, b, c"):
        place(residual().graph, ["a", "nothing"])


@pytest.mark.parametrize(
    ("fixture", "layers", "count", "last"),
    [("vggish_all", [5, 10], 3, "features.8"), ("ast_second", [1], 6, "blocks.0.mlp.fc2")],
)
def test_other_models(request, tmp_path, fixture, layers, count, last):
    path = with_layers(request.getfixturevalue(fixture).path, tmp_path / "a.onnx", layers)
    placement = place(onnx.load(path).graph)
    path.unlink()
    assert len(placement.products) == count
    assert placement.products[-1].name == last
    # Attention's products of two activations stay.
    assert all(product.weight for product in placement.products)
