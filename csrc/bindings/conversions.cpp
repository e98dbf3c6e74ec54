#include "conversions.h"

#include <algorithm>
#include <stdexcept>

namespace py = pybind11;

namespace fusion_engine {

std::string describe(const py::array& array) {
    return std::string(py::str(array.dtype())) + " " +
           std::string(py::str(py::tuple(array.attr("shape"))));
}

void check_aligned(const py::array& array, const std::string& name) {
    if (array.flags() & kAligned) return;
    throw py::value_error(name + " is " + describe(array) +
                          " that is not aligned; expected items at multiples of their size: "
                          ".copy() makes such an array");
}

std::optional<DType> dtype_of(const std::string& name) {
    if (name == "float32") return DType::kFloat32;
    if (name == "float16") return DType::kFloat16;
    if (name == "bfloat16") return DType::kBFloat16;
    return std::nullopt;
}

Head head_of(const std::string& name) {
    if (name == "mean_max") return Head::kMeanMax;
    if (name == "mean") return Head::kMean;
    if (name == "max") return Head::kMax;
    throw std::invalid_argument("head is '" + name + "'; expected 'mean_max', 'mean' or 'max'");
}

LayerOutput make_layer(const void* data, DType dtype, const std::vector<std::int64_t>& shape,
                       const std::vector<std::int64_t>& strides, std::int64_t time_pool,
                       const std::string& name) {
    const auto narrow = [&](std::int64_t value, const char* what) {
        if (value < 0 || value > kMaxExtent) {
            throw std::invalid_argument(name + " has " + what + " " + std::to_string(value) +
                                        "; expected 0 to 2^30");
        }
        return static_cast<std::int32_t>(value);
    };
    LayerOutput layer{};
    layer.data = data;
    layer.segments = shape[0];
    layer.dtype = dtype;
    layer.is_vector = shape.size() == 2;
    layer.channels = narrow(shape[1], "channels");
    layer.time = layer.is_vector ? 1 : narrow(shape[2], "frames");
    layer.freq = layer.is_vector ? 1 : narrow(shape[3], "frequencies");
    layer.time_pool = narrow(time_pool, "time_pool");
    layer.stride_segment = strides[0];
    layer.stride_channel = strides[1];
    layer.stride_time = layer.is_vector ? 0 : strides[2];
    layer.stride_freq = layer.is_vector ? 0 : strides[3];
    return layer;
}

FusionInput make_input(const std::vector<LayerOutput>& layers, std::int64_t clips,
                       const std::int64_t* offsets, const std::int64_t* begins,
                       const std::int64_t* counts) {
    if (layers.empty() || layers.size() > kMaxLayers) {
        throw std::invalid_argument("got " + std::to_string(layers.size()) +
                                    " outputs; expected 1 to " + std::to_string(kMaxLayers));
    }
    FusionInput input{};
    std::copy(layers.begin(), layers.end(), input.layers);
    input.layer_count = static_cast<std::int32_t>(layers.size());
    input.clips = clips;
    input.offsets = offsets;
    input.begins = begins;
    input.counts = counts;
    complete_input(input);
    return input;
}

}  // namespace fusion_engine
