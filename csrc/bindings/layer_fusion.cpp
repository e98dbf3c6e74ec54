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

std::string output_name(std::size_t index) { return "outputs[" + std::to_string(index) + "]"; }

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
    IndexArray() = default;
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

// A sequence may make its items as they are asked for: these are kept.
std::vector<py::array> output_arrays(const py::sequence& outputs, std::size_t pools) {
    if (pools != outputs.size()) {
        throw py::value_error("got " + std::to_string(pools) + " time_pools for " +
                              std::to_string(outputs.size()) + " outputs");
    }
    std::vector<py::array> arrays;
    for (std::size_t l = 0; l < pools; ++l) {
        arrays.push_back(output_array(outputs[l], output_name(l)));
    }
    return arrays;
}

// The input of a call and the arrays it points to.
struct HostCall {
    std::vector<py::array> arrays;
    IndexArray offsets;
    IndexArray begins;
    IndexArray counts;
    FusionInput input;

    HostCall(const py::sequence& outputs, const std::vector<std::int64_t>& pools,
             const py::object& offsets_, const py::object& begins_, const py::object& counts_)
        : arrays(output_arrays(outputs, pools.size())), offsets(offsets_, "offsets", -1) {
        std::vector<LayerOutput> layers;
        for (std::size_t l = 0; l < pools.size(); ++l) {
            layers.push_back(layer_output(arrays[l], pools[l], output_name(l)));
        }
        const std::int64_t segments = layers.empty() ? 0 : layers[0].segments;
        begins = IndexArray(begins_, "begins", segments);
        counts = IndexArray(counts_, "counts", segments);
        if (offsets.data() != nullptr && offsets.size() < 1) {
            throw py::value_error("offsets is empty; expected [B + 1]");
        }
        const std::int64_t clips = offsets.data() != nullptr ? offsets.size() - 1 : segments;
        input = make_input(layers, clips, offsets.data(), begins.data(), counts.data());
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

void run(const FusionInput& input, const FusionOutput& output, std::int64_t threads,
         std::int64_t target_threads) {
    if (threads < 1 || threads > std::numeric_limits<int>::max()) {
        throw py::value_error("threads is " + std::to_string(threads) + "; expected at least 1");
    }
    const py::gil_scoped_release release;
    fuse_cpu(input, output, static_cast<int>(threads), target_threads);
}

py::tuple fuse(const py::sequence& outputs, const std::vector<std::int64_t>& time_pools,
               const py::object& offsets, const py::object& begins, const py::object& counts,
               const std::string& head, const py::object& frames, const py::object& frame_offsets,
               std::int64_t threads, std::int64_t target_threads) {
    const HostCall call(outputs, time_pools, offsets, begins, counts);
    const IndexArray starts(frame_offsets, "frame_offsets", call.input.clips);
    py::array_t<float> embedding({call.input.clips, std::int64_t{call.input.dim}});
    py::array_t<std::uint32_t> flags(call.input.clips);
    std::fill_n(flags.mutable_data(), flags.size(), 0u);
    const FusionOutput output{embedding.mutable_data(), head_of(head), FusionState{},
                              flags.mutable_data(), frame_features(call.input, frames, starts)};
    run(call.input, output, threads, target_threads);
    return py::make_tuple(std::move(embedding), std::move(flags));
}

void accumulate(const py::sequence& outputs, const std::vector<std::int64_t>& time_pools,
                const py::object& offsets, const py::object& begins, const py::object& counts,
                const py::object& sum, const py::object& compensation, const py::object& max,
                const py::object& count, const py::object& flags, const py::object& frames,
                const py::object& frame_offsets, std::int64_t threads,
                std::int64_t target_threads) {
    const HostCall call(outputs, time_pools, offsets, begins, counts);
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
    run(call.input, output, threads, target_threads);
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

constexpr const char* kFuse = R"(Fuse the layer outputs of whole clips into embeddings.

Niizumi et al. 2022, Eq. 1-3: every layer output is max-pooled over time, flattened channel-major
(d = c * F + f), concatenated with the others, and pooled over the clip's frames.

Args:
    outputs: 1 to 32 layer outputs, maps [S, C, T, F] or vectors [S, D], float32, float16 or
        bfloat16, of any strides.
    time_pools: window and stride of each one's max-pool over time, 1 for a vector. The last
        T mod pool rows are dropped, and T_o = T // pool must be the same for all maps.
    offsets: [B + 1], clip b has the segments offsets[b] to offsets[b + 1]; one each if None.
    begins: [S], the first of each segment's T_o frames that counts; 0 if None.
    counts: [S], how many count; T_o if None. A vector stands for each counted frame, and once
        if all outputs are vectors and this is None.
    head: pooling over the counted frames.
    frames: C-contiguous [B, D, T_total], takes the frame features of the counted frames.
    frame_offsets: [B], where each clip's start in ``frames``; 0 if None.
    threads: most threads to use. The result depends neither on it nor on the other clips.
    target_threads: for tests of the CUDA algorithm. Above 1 a value's frames are split over up to
        32 threads, as on a GPU that this many threads fill; how, depends on the whole call.

Returns:
    Embeddings [B, D], and flags [B]: bit l is set when a value read from ``outputs[l]`` was not
    finite, and the clip's embedding is then meaningless. Frames that do not count are not read.

Raises:
    TypeError: an argument of a wrong type or dtype.
    ValueError: shapes or ranges that do not fit, or a clip with no counted frame.)";

constexpr const char* kAccumulate =
    R"(Add a call's counted frames, which may be none, to the clips' state.

However the frames of a clip are split over calls, the embedding stays within 1e-6 * max |value| of
the one-shot result.

Args:
    sum: [B, D], the rounded sum of the counted frames; 0 at first. Like all five a C-contiguous
        buffer that is written in place.
    compensation: [B, D], what rounding took from ``sum``; 0 at first.
    max: [B, D], their maximum; -infinity at first.
    count: float32 [B], how many they are; 0 at first.
    flags: uint32 [B], as of `fuse`, which has the other arguments; bits are set, never cleared.

Raises:
    TypeError: an argument of a wrong type or dtype.
    ValueError: shapes or ranges that do not fit.)";

constexpr const char* kFinalize =
    R"(Embeddings [B, D] of the frames that `accumulate` added to a state.

The state is left as it is.

Raises:
    TypeError: an argument of a wrong type or dtype.
    ValueError: shapes that do not fit, or a clip with no counted frame.)";

}  // namespace

void bind_layer_fusion(py::module_& module) {
    const auto none = py::none();
    module.def("fuse", &fuse, kFuse, py::arg("outputs"), py::arg("time_pools"), py::kw_only(),
               py::arg("offsets") = none, py::arg("begins") = none, py::arg("counts") = none,
               py::arg("head") = "mean_max", py::arg("frames") = none,
               py::arg("frame_offsets") = none, py::arg("threads") = 1,
               py::arg("target_threads") = 1);
    module.def("accumulate", &accumulate, kAccumulate, py::arg("outputs"), py::arg("time_pools"),
               py::kw_only(), py::arg("offsets") = none, py::arg("begins") = none,
               py::arg("counts") = none, py::arg("sum"), py::arg("compensation"), py::arg("max"),
               py::arg("count"), py::arg("flags"), py::arg("frames") = none,
               py::arg("frame_offsets") = none, py::arg("threads") = 1,
               py::arg("target_threads") = 1);
    module.def("finalize", &finalize, kFinalize, py::kw_only(), py::arg("sum"),
               py::arg("compensation"), py::arg("max"), py::arg("count"),
               py::arg("head") = "mean_max");
}

}  // namespace fusion_engine
