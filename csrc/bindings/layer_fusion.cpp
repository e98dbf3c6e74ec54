// Layer fusion on host arrays.
#include "../layer_fusion.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "conversions.h"

namespace py = pybind11;

namespace fusion_engine {
namespace {

py::array output_array(const py::object& object, const std::string& name) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(name + " is a " + std::string(py::str(py::type::of(object))) +
                             "; expected a NumPy array");
    }
    return py::reinterpret_borrow<py::array>(object);
}

LayerOutput layer_output(const py::array& array, std::int64_t time_pool, const std::string& name) {
    const std::optional<DType> dtype = dtype_of(std::string(py::str(array.dtype())));
    if (!dtype) {
        throw py::type_error(name + " is " + describe(array) +
                             "; expected float32, float16 or bfloat16 in native byte order");
    }
    if (array.ndim() != 4 && array.ndim() != 2) {
        throw py::value_error(name + " is " + describe(array) +
                              "; expected a map [S, C, T, F] or a vector [S, D]");
    }
    check_aligned(array, name);
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        if (array.strides(axis) % array.itemsize() != 0) {
            throw py::value_error(name + " has a stride of " + std::to_string(array.strides(axis)) +
                                  " bytes; expected a multiple of the item size");
        }
        shape.push_back(array.shape(axis));
        strides.push_back(array.strides(axis) / array.itemsize());
    }
    return make_layer(array.data(), *dtype, shape, strides, time_pool, name);
}

// An optional int64 array of a call, kept alive here.
class IndexArray {
    using Array = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast | kAligned>;

  public:
    IndexArray(const py::object& object, const char* name, std::int64_t size) {
        if (object.is_none()) return;
        const py::array array = py::array::ensure(object);
        if (!array || (array.dtype().kind() != 'i' && array.dtype().kind() != 'u')) {
            PyErr_Clear();
            throw py::type_error(std::string(name) + " is " +
                                 (array ? describe(array) : std::string(py::str(object))) +
                                 "; expected integers");
        }
        if (array.ndim() != 1 || (size >= 0 && array.shape(0) != size)) {
            throw py::value_error(std::string(name) + " is " + describe(array) + "; expected " +
                                  (size >= 0 ? "[" + std::to_string(size) + "]" : "one dimension"));
        }
        array_ = Array::ensure(array);
        present_ = true;
    }
    const std::int64_t* data() const { return present_ ? array_.data() : nullptr; }
    std::int64_t size() const { return present_ ? array_.size() : 0; }

  private:
    Array array_;
    bool present_ = false;
};

// A caller's buffer that is written in place.
template <class T>
T* buffer(const py::object& object, const char* name, const std::vector<std::int64_t>& shape) {
    using Array = py::array_t<T, py::array::c_style>;
    const std::string expected = std::string(py::str(py::dtype::of<T>())) + " " +
                                 std::string(py::str(py::tuple(py::cast(shape))));
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(std::string(name) + " is a " +
                             std::string(py::str(py::type::of(object))) + "; expected " + expected);
    }
    auto array = py::reinterpret_borrow<py::array>(object);
    if (!py::isinstance<Array>(object) || !array.writeable()) {
        throw py::type_error(std::string(name) + " is " + describe(array) +
                             "; expected a writable C-contiguous array of " + expected);
    }
    check_aligned(array, name);
    bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (std::size_t i = 0; same && i < shape.size(); ++i) {
        same = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    }
    if (!same) {
        throw py::value_error(std::string(name) + " is " + describe(array) + "; expected " +
                              expected);
    }
    return static_cast<T*>(array.mutable_data());
}

// The input of a call and the arrays it points to.
struct HostCall {
    IndexArray offsets;
    std::vector<std::int64_t> pools;
    std::vector<py::array> arrays;
    FusionInput input{};
    IndexArray begins;
    IndexArray counts;

    // A sequence may make its items as they are asked for: `arrays` keeps them.
    static FusionInput read_layers(const py::sequence& outputs,
                                   const std::vector<std::int64_t>& pools,
                                   std::vector<py::array>& arrays) {
        FusionInput input{};
        const std::size_t layers = outputs.size();
        if (layers < 1 || layers > kMaxLayers) {
            throw py::value_error("got " + std::to_string(layers) + " outputs; expected 1 to " +
                                  std::to_string(kMaxLayers));
        }
        if (pools.size() != layers) {
            throw py::value_error("got " + std::to_string(pools.size()) + " time_pools for " +
                                  std::to_string(layers) + " outputs");
        }
        for (std::size_t l = 0; l < layers; ++l) {
            const std::string name = "outputs[" + std::to_string(l) + "]";
            arrays.push_back(output_array(outputs[l], name));
            input.layers[l] = layer_output(arrays[l], pools[l], name);
            const std::int64_t segments = arrays[l].shape(0);
            if (l > 0 && segments != input.segments) {
                throw py::value_error(name + " has " + std::to_string(segments) +
                                      " segments, outputs[0] has " +
                                      std::to_string(input.segments));
            }
            input.segments = segments;
        }
        input.layer_count = static_cast<std::int32_t>(layers);
        return input;
    }

    HostCall(const py::sequence& outputs, std::vector<std::int64_t> time_pools,
             const py::object& offsets_, const py::object& begins_, const py::object& counts_)
        : offsets(offsets_, "offsets", -1),
          pools(std::move(time_pools)),
          input(read_layers(outputs, pools, arrays)),
          begins(begins_, "begins", input.segments),
          counts(counts_, "counts", input.segments) {
        if (offsets.data() != nullptr && offsets.size() < 1) {
            throw py::value_error("offsets is empty; expected [B + 1]");
        }
        input.clips = offsets.data() != nullptr ? offsets.size() - 1 : input.segments;
        input.offsets = offsets.data();
        input.begins = begins.data();
        input.counts = counts.data();
        complete_input(input);
    }
};

FrameFeatures frame_features(const FusionInput& input, const py::object& frames,
                             const IndexArray& offsets) {
    if (frames.is_none()) {
        if (offsets.data() != nullptr) throw py::value_error("frame_offsets without frames");
        return {};
    }
    std::int64_t total = 0;
    if (py::isinstance<py::array>(frames)) {
        const auto array = py::reinterpret_borrow<py::array>(frames);
        if (array.ndim() == 3) total = array.shape(2);
    }
    return {buffer<float>(frames, "frames", {input.clips, input.dim, total}), total,
            offsets.data()};
}

// Runs a call on the CPU, or with the CUDA algorithm's host build.
using Runner = void (*)(const FusionInput&, const FusionOutput&, std::int64_t);

void run_cpu(const FusionInput& input, const FusionOutput& output, std::int64_t threads) {
    if (threads < 1 || threads > std::numeric_limits<int>::max()) {
        throw py::value_error("threads is " + std::to_string(threads) + "; expected at least 1");
    }
    const py::gil_scoped_release release;
    fuse_cpu(input, output, static_cast<int>(threads));
}

void run_host_grid(const FusionInput& input, const FusionOutput& output, std::int64_t target) {
    const py::gil_scoped_release release;
    fuse_on_host_grid(input, output, target);
}

template <Runner run>
py::tuple fuse(const py::sequence& outputs, std::vector<std::int64_t> time_pools,
               const py::object& offsets, const py::object& begins, const py::object& counts,
               const std::string& head, const py::object& frames, const py::object& frame_offsets,
               std::int64_t parallelism) {
    const HostCall call(outputs, std::move(time_pools), offsets, begins, counts);
    const IndexArray starts(frame_offsets, "frame_offsets", call.input.clips);
    py::array_t<float> embedding({call.input.clips, std::int64_t{call.input.dim}});
    py::array_t<std::uint32_t> flags(call.input.clips);
    std::fill_n(flags.mutable_data(), flags.size(), 0u);
    const FusionOutput output{embedding.mutable_data(), head_of(head), FusionState{},
                              flags.mutable_data(), frame_features(call.input, frames, starts)};
    run(call.input, output, parallelism);
    return py::make_tuple(std::move(embedding), std::move(flags));
}

template <Runner run>
void accumulate(const py::sequence& outputs, std::vector<std::int64_t> time_pools,
                const py::object& offsets, const py::object& begins, const py::object& counts,
                const py::object& sum, const py::object& compensation, const py::object& max,
                const py::object& count, const py::object& flags, const py::object& frames,
                const py::object& frame_offsets, std::int64_t parallelism) {
    const HostCall call(outputs, std::move(time_pools), offsets, begins, counts);
    const IndexArray starts(frame_offsets, "frame_offsets", call.input.clips);
    const std::vector<std::int64_t> per_clip{call.input.clips};
    const std::vector<std::int64_t> per_value{call.input.clips, call.input.dim};
    const FusionState state{buffer<float>(sum, "sum", per_value),
                            buffer<float>(compensation, "compensation", per_value),
                            buffer<float>(max, "max", per_value),
                            buffer<float>(count, "count", per_clip)};
    const FusionOutput output{nullptr, Head::kMeanMax, state,
                              buffer<std::uint32_t>(flags, "flags", per_clip),
                              frame_features(call.input, frames, starts)};
    run(call.input, output, parallelism);
}

py::array_t<float> finalize(const py::array& sum, const py::object& compensation,
                            const py::object& max, const py::object& count,
                            const std::string& head) {
    if (sum.ndim() != 2) throw py::value_error("sum is " + describe(sum) + "; expected [B, D]");
    const std::vector<std::int64_t> per_value{sum.shape(0), sum.shape(1)};
    const FusionState state{buffer<float>(sum, "sum", per_value),
                            buffer<float>(compensation, "compensation", per_value),
                            buffer<float>(max, "max", per_value),
                            buffer<float>(count, "count", {sum.shape(0)})};
    for (std::int64_t b = 0; b < per_value[0]; ++b) {
        if (!(state.count[b] > 0)) {
            throw py::value_error("clip " + std::to_string(b) +
                                  " has no counted frame; expected at least one");
        }
    }
    py::array_t<float> embedding(per_value);
    const Head pooling = head_of(head);
    float* data = embedding.mutable_data();
    {
        const py::gil_scoped_release release;
        finalize_cpu(state, per_value[0], per_value[1], pooling, data);
    }
    return embedding;
}

}  // namespace

void bind_layer_fusion(py::module_& module) {
    const auto none = py::none();
    module.def("fuse", &fuse<run_cpu>, "Fuse layer outputs in one shot: (embedding, flags).",
               py::arg("outputs"), py::arg("time_pools"), py::kw_only(), py::arg("offsets") = none,
               py::arg("begins") = none, py::arg("counts") = none, py::arg("head") = "mean_max",
               py::arg("frames") = none, py::arg("frame_offsets") = none, py::arg("threads") = 1);
    module.def("accumulate", &accumulate<run_cpu>, "Add a call's frames to the clips' state.",
               py::arg("outputs"), py::arg("time_pools"), py::kw_only(), py::arg("offsets") = none,
               py::arg("begins") = none, py::arg("counts") = none, py::arg("sum"),
               py::arg("compensation"), py::arg("max"), py::arg("count"), py::arg("flags"),
               py::arg("frames") = none, py::arg("frame_offsets") = none, py::arg("threads") = 1);
    module.def("finalize", &finalize, "The embedding of the clips' state.", py::kw_only(),
               py::arg("sum"), py::arg("compensation"), py::arg("max"), py::arg("count"),
               py::arg("head") = "mean_max");
    module.def("fuse_on_host_grid", &fuse<run_host_grid>,
               "`fuse` by the CUDA kernel's algorithm, thread by thread on the host: for tests.",
               py::arg("outputs"), py::arg("time_pools"), py::kw_only(), py::arg("offsets") = none,
               py::arg("begins") = none, py::arg("counts") = none, py::arg("head") = "mean_max",
               py::arg("frames") = none, py::arg("frame_offsets") = none,
               py::arg("target_threads") = 1 << 17);
    module.def("accumulate_on_host_grid", &accumulate<run_host_grid>,
               "`accumulate` by the CUDA kernel's algorithm on the host: for tests.",
               py::arg("outputs"), py::arg("time_pools"), py::kw_only(), py::arg("offsets") = none,
               py::arg("begins") = none, py::arg("counts") = none, py::arg("sum"),
               py::arg("compensation"), py::arg("max"), py::arg("count"), py::arg("flags"),
               py::arg("frames") = none, py::arg("frame_offsets") = none,
               py::arg("target_threads") = 1 << 17);
}

}  // namespace fusion_engine
