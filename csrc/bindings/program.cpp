// A batch that was recorded as a CUDA graph, from NumPy arrays to NumPy arrays.
#include "../program.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "conversions.h"

namespace py = pybind11;

namespace fusion_engine {
namespace {

template <class Function>
Function function(Address address, const char* name) {
    if (address == 0) throw py::value_error(std::string(name) + " is 0; expected its address");
    return reinterpret_cast<Function>(address);
}

Driver make_driver(Address push, Address pop, Address copy, Address launch, Address synchronize,
                   Address error_name) {
    return {function<decltype(Driver::push_context)>(push, "cuCtxPushCurrent"),
            function<decltype(Driver::pop_context)>(pop, "cuCtxPopCurrent"),
            function<decltype(Driver::copy_to_device)>(copy, "cuMemcpyHtoDAsync"),
            function<decltype(Driver::launch_graph)>(launch, "cuGraphLaunch"),
            function<decltype(Driver::synchronize_stream)>(synchronize, "cuStreamSynchronize"),
            function<decltype(Driver::error_name)>(error_name, "cuGetErrorName")};
}

std::optional<ClipType> clip_type(const py::array& samples) {
    if (py::isinstance<py::array_t<float>>(samples)) return ClipType::kFloat32;
    if (py::isinstance<py::array_t<std::int16_t>>(samples)) return ClipType::kInt16;
    if (py::isinstance<py::array_t<double>>(samples)) return ClipType::kFloat64;
    return std::nullopt;
}

// Lengths of clips, if each is an array [N], N > 0, that a program takes as it is.
std::optional<std::vector<std::int64_t>> clip_lengths(const py::sequence& clips) {
    constexpr int kWanted = py::array::c_style | kAligned;
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0, count = clips.size(); i < count; ++i) {
        const py::object clip = clips[i];
        // A subclass may mean something else by its items: masked arrays do.
        if (Py_TYPE(clip.ptr()) != py::detail::npy_api::get().PyArray_Type_) return std::nullopt;
        const auto samples = py::reinterpret_borrow<py::array>(clip);
        if (samples.ndim() != 1 || samples.shape(0) == 0 ||
            (samples.flags() & kWanted) != kWanted || !clip_type(samples)) {
            return std::nullopt;
        }
        lengths.push_back(samples.shape(0));
    }
    return lengths;
}

HostClip host_clip(const py::array& samples, SampleType wanted, bool in_place) {
    const std::optional<ClipType> type = clip_type(samples);
    if (!type) {
        throw py::type_error("samples is " + describe(samples) +
                             "; expected float32, float64 or int16");
    }
    if (wanted == SampleType::kInt16 && *type != ClipType::kInt16) {
        throw py::type_error("samples is " + describe(samples) + "; expected int16");
    }
    if (in_place && wanted == SampleType::kFloat32 && *type != ClipType::kFloat32) {
        throw py::type_error("samples is " + describe(samples) + "; expected float32 in place");
    }
    if (samples.ndim() != 1 || (samples.flags() & py::array::c_style) == 0) {
        throw py::value_error("samples is " + describe(samples) + "; expected [N], contiguous");
    }
    check_aligned(samples, "samples");
    return {samples.data(), *type, samples.shape(0)};
}

// One batch: its buffers, and what its last samples were like. For one call at a time.
class Program {
  public:
    Program(const Stream& stream, const HostBuffers& host, double largest)
        : stream_(stream),
          host_(host),
          largest_(largest),
          faulty_(static_cast<std::size_t>(host.clips)) {}

    void load(const std::vector<py::array>& clips, bool in_place) {
        const std::vector<HostClip> samples = host_clips(clips, in_place);
        const py::gil_scoped_release release;
        const Stream::Current current(stream_);
        load_clips(host_, stream_, samples, in_place, largest_, faulty_);
    }

    py::tuple results() {
        Results results(host_);
        {
            const py::gil_scoped_release release;
            store_results(host_, results.embedding_data, results.flags_data, faulty_);
        }
        return tuple_of(results);
    }

    void start(const std::vector<py::array>& clips, Address graph, bool in_place) {
        const std::vector<HostClip> samples = host_clips(clips, in_place);
        const py::gil_scoped_release release;
        const Stream::Current current(stream_);
        load_clips(host_, stream_, samples, in_place, largest_, faulty_);
        stream_.launch(pointer<void>(graph));
    }

    py::tuple finish() {
        {
            const py::gil_scoped_release release;
            const Stream::Current current(stream_);
            stream_.synchronize();
        }
        return results();
    }

    py::tuple run(const std::vector<py::array>& clips, Address graph, bool in_place) {
        const std::vector<HostClip> samples = host_clips(clips, in_place);
        Results results(host_);
        {
            const py::gil_scoped_release release;
            const Stream::Current current(stream_);
            load_clips(host_, stream_, samples, in_place, largest_, faulty_);
            stream_.launch(pointer<void>(graph));
            stream_.synchronize();
            store_results(host_, results.embedding_data, results.flags_data, faulty_);
        }
        return tuple_of(results);
    }

  private:
    struct Results {
        py::array_t<float> embedding;
        py::array_t<std::uint32_t> flags;
        float* embedding_data;
        std::uint32_t* flags_data;

        explicit Results(const HostBuffers& host)
            : embedding({host.clips, host.dim}),
              flags(host.clips),
              embedding_data(embedding.mutable_data()),
              flags_data(flags.mutable_data()) {}
    };

    std::vector<HostClip> host_clips(const std::vector<py::array>& clips, bool in_place) const {
        if (clips.size() != faulty_.size()) {
            throw py::value_error("got " + std::to_string(clips.size()) + " clips; expected " +
                                  std::to_string(faulty_.size()));
        }
        std::vector<HostClip> samples;
        samples.reserve(clips.size());
        for (const py::array& clip : clips)
            samples.push_back(host_clip(clip, host_.type, in_place));
        return samples;
    }

    py::tuple tuple_of(const Results& results) const {
        py::list rows;
        for (std::size_t row = 0; row < faulty_.size(); ++row) {
            if (faulty_[row]) rows.append(row);
        }
        return py::make_tuple(results.embedding, results.flags, rows);
    }

    Stream stream_;
    HostBuffers host_;
    double largest_;
    Faulty faulty_;
};

constexpr std::int64_t kMostClips = 1 << 24;

Program make_program(const Stream& stream, Address device, Address samples,
                     const std::string& dtype, std::int64_t clips, std::int64_t stride,
                     Address lengths, Address flags, Address embedding, std::int64_t dim,
                     double largest, Address valid, Address counts, std::int64_t hop_length,
                     std::int64_t first, std::int64_t least, std::int64_t frames_per_step,
                     std::int64_t step_offset) {
    if (dtype != "int16" && dtype != "float32") {
        throw py::value_error("dtype is '" + dtype + "'; expected 'int16' or 'float32'");
    }
    if (clips < 1 || clips > kMostClips || stride < 1 || dim < 1) {
        throw py::value_error("clips is " + std::to_string(clips) + ", stride is " +
                              std::to_string(stride) + " and dim is " + std::to_string(dim) +
                              "; expected at least 1 each, and at most " +
                              std::to_string(kMostClips) + " clips");
    }
    if ((valid == 0) != (counts == 0) || hop_length < 1 || frames_per_step < 1) {
        throw py::value_error("valid and counts come together, and hop_length is " +
                              std::to_string(hop_length) + " and frames_per_step is " +
                              std::to_string(frames_per_step) + "; expected at least 1");
    }
    if (flags > lengths || lengths > samples) {
        throw py::value_error("flags, lengths and samples come in this order");
    }
    const HostBuffers host{pointer<std::uint32_t>(flags),
                           pointer<std::int64_t>(lengths),
                           pointer<void>(samples),
                           device,
                           dtype == "int16" ? SampleType::kInt16 : SampleType::kFloat32,
                           clips,
                           stride,
                           pointer<const float>(embedding),
                           dim,
                           {pointer<std::int32_t>(valid), pointer<std::int64_t>(counts), hop_length,
                            first, least, frames_per_step, step_offset}};
    return {stream, host, largest};
}

}  // namespace

void bind_program(py::module_& module) {
    py::class_<Driver>(module, "Driver", "Functions of the CUDA driver, by address.")
        .def(py::init(&make_driver), py::kw_only(), py::arg("cuCtxPushCurrent"),
             py::arg("cuCtxPopCurrent"), py::arg("cuMemcpyHtoDAsync"), py::arg("cuGraphLaunch"),
             py::arg("cuStreamSynchronize"), py::arg("cuGetErrorName"));

    py::class_<Stream>(module, "Stream", "A CUstream of one GPU.")
        .def(py::init([](const Driver& driver, Address context, Address handle) {
                 return Stream{driver, pointer<void>(context), pointer<void>(handle)};
             }),
             py::arg("driver"), py::kw_only(), py::arg("context"), py::arg("handle"));

    py::class_<Program>(module, "Program",
                        "A batch on its way to the device and back, without the GIL. For one call "
                        "at a time.")
        .def(py::init(&make_program), py::arg("stream"), py::kw_only(), py::arg("device"),
             py::arg("samples"), py::arg("dtype"), py::arg("clips"), py::arg("stride"),
             py::arg("lengths"), py::arg("flags"), py::arg("embedding"), py::arg("dim"),
             py::arg("largest"), py::arg("valid") = 0, py::arg("counts") = 0,
             py::arg("hop_length") = 1, py::arg("first") = 0, py::arg("least") = 0,
             py::arg("frames_per_step") = 1, py::arg("step_offset") = 0)
        .def("load", &Program::load,
             "Send a batch of clips [N]; every sample is checked on its way. in_place: they are "
             "page-locked and of the batch's dtype.",
             py::arg("clips"), py::kw_only(), py::arg("in_place") = false)
        .def("results", &Program::results,
             "Embeddings [B, D], flags [B] of layer outputs, and the rows without an embedding: a "
             "sample, a layer output or a value of it is not finite or too large.")
        .def("start", &Program::start, "`load`, and launch a CUgraphExec; `finish` follows.",
             py::arg("clips"), py::arg("graph"), py::kw_only(), py::arg("in_place") = false)
        .def("finish", &Program::finish, "Wait for the stream; `results`.")
        .def("run", &Program::run, "`start` and `finish`.", py::arg("clips"), py::arg("graph"),
             py::kw_only(), py::arg("in_place") = false);

    module.def("clip_lengths", &clip_lengths,
               "Lengths of clips, each an array [N] that a `Program` takes as it is; None: one is "
               "not.",
               py::arg("clips"));
}

}  // namespace fusion_engine
