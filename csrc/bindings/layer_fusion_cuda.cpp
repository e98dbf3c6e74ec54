// Layer fusion on device pointers. Pointers are integers, null is 0; nothing is copied or waited
// for, and the caller keeps every array alive until the stream has passed the call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "conversions.h"

namespace py = pybind11;

namespace fusion_engine {
namespace {

LayerOutput device_layer(Address data, const std::string& dtype,
                         const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides, std::int64_t time_pool) {
    const std::optional<DType> type = dtype_of(dtype);
    if (!type) {
        throw py::type_error("dtype is '" + dtype + "'; expected float32, float16 or bfloat16");
    }
    if ((shape.size() != 4 && shape.size() != 2) || strides.size() != shape.size()) {
        throw py::value_error("got " + std::to_string(shape.size()) + " sizes and " +
                              std::to_string(strides.size()) +
                              " strides; expected [S, C, T, F] or [S, D] and as many strides");
    }
    return make_layer(pointer<const void>(data), *type, shape, strides, time_pool, "the layer");
}

FrameFeatures make_frames(Address frames, std::int64_t total, Address offsets) {
    return {pointer<float>(frames), total, pointer<const std::int64_t>(offsets)};
}

FusionState make_state(Address sum, Address compensation, Address max, Address count) {
    return {pointer<float>(sum), pointer<float>(compensation), pointer<float>(max),
            pointer<float>(count)};
}

void run(const std::vector<LayerOutput>& layers, std::int64_t clips, Address offsets,
         Address begins, Address counts, const FusionOutput& output, Address stream) {
    const FusionInput input =
        make_input(layers, clips, pointer<const std::int64_t>(offsets),
                   pointer<const std::int64_t>(begins), pointer<const std::int64_t>(counts));
    const py::gil_scoped_release release;
    fuse_cuda(input, output, pointer<void>(stream));
}

}  // namespace

void bind_layer_fusion_cuda(py::module_& module) {
    py::class_<LayerOutput>(module, "DeviceLayer",
                            "A layer output in device memory; strides count elements.")
        .def(py::init(&device_layer), py::arg("data"), py::kw_only(), py::arg("dtype"),
             py::arg("shape"), py::arg("strides"), py::arg("time_pool"));

    module.def(
        "fuse_cuda",
        [](const std::vector<LayerOutput>& layers, std::int64_t clips, Address embedding,
           Address flags, Address offsets, Address begins, Address counts, const std::string& head,
           Address frames, std::int64_t frames_total, Address frame_offsets, Address stream) {
            run(layers, clips, offsets, begins, counts,
                {pointer<float>(embedding), head_of(head), FusionState{},
                 pointer<std::uint32_t>(flags), make_frames(frames, frames_total, frame_offsets)},
                stream);
        },
        "Queue a one-shot fusion on `stream`. A clip with no counted frame becomes NaN.",
        py::arg("layers"), py::kw_only(), py::arg("clips"), py::arg("embedding"), py::arg("flags"),
        py::arg("offsets") = 0, py::arg("begins") = 0, py::arg("counts") = 0,
        py::arg("head") = "mean_max", py::arg("frames") = 0, py::arg("frames_total") = 0,
        py::arg("frame_offsets") = 0, py::arg("stream") = 0);

    module.def(
        "accumulate_cuda",
        [](const std::vector<LayerOutput>& layers, std::int64_t clips, Address sum,
           Address compensation, Address max, Address count, Address flags, Address offsets,
           Address begins, Address counts, Address frames, std::int64_t frames_total,
           Address frame_offsets, Address stream) {
            run(layers, clips, offsets, begins, counts,
                {nullptr, Head::kMeanMax, make_state(sum, compensation, max, count),
                 pointer<std::uint32_t>(flags), make_frames(frames, frames_total, frame_offsets)},
                stream);
        },
        "Queue the addition of a call's frames to the clips' state on `stream`.", py::arg("layers"),
        py::kw_only(), py::arg("clips"), py::arg("sum"), py::arg("compensation"), py::arg("max"),
        py::arg("count"), py::arg("flags"), py::arg("offsets") = 0, py::arg("begins") = 0,
        py::arg("counts") = 0, py::arg("frames") = 0, py::arg("frames_total") = 0,
        py::arg("frame_offsets") = 0, py::arg("stream") = 0);

    module.def(
        "finalize_cuda",
        [](std::int64_t clips, std::int64_t dim, Address sum, Address compensation, Address max,
           Address count, Address embedding, const std::string& head, Address stream) {
            const FusionState state = make_state(sum, compensation, max, count);
            const Head pooling = head_of(head);
            check_state(clips, dim);
            const py::gil_scoped_release release;
            finalize_cuda(state, clips, dim, pooling, pointer<float>(embedding),
                          pointer<void>(stream));
        },
        "Queue the embedding of the clips' state on `stream`.", py::kw_only(), py::arg("clips"),
        py::arg("dim"), py::arg("sum"), py::arg("compensation"), py::arg("max"), py::arg("count"),
        py::arg("embedding"), py::arg("head") = "mean_max", py::arg("stream") = 0);
}

}  // namespace fusion_engine
