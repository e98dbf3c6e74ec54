// The frontend's tables, its kernel on device pointers, and the kernel's host build on arrays.
#include "../frontend.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "bindings.h"
#include "conversions.h"

namespace py = pybind11;

namespace fusion_engine {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast | kAligned>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast | kAligned>;

// Which of the names it is; throws where it is neither.
bool is_first(const char* what, const std::string& got, const char* first, const char* second) {
    if (got != first && got != second) {
        throw py::value_error(std::string(what) + " is '" + got + "'; expected '" + first +
                              "' or '" + second + "'");
    }
    return got == first;
}

Logarithm logarithm_of(const std::string& name) {
    if (name == "db") return Logarithm::kDecibel;
    if (name == "ln_add") return Logarithm::kLnAdd;
    if (name == "ln_max") return Logarithm::kLnMax;
    throw py::value_error("log is '" + name + "'; expected 'db', 'ln_add' or 'ln_max'");
}

FrontendTables make_tables(std::int64_t n_fft, std::int64_t hop_length, const std::string& padding,
                           bool remove_dc, double preemphasis, const std::string& spectrum,
                           const std::string& log, double log_offset, double mean,
                           std::optional<double> std, const Doubles& window, const Doubles& filters,
                           const std::optional<Floats>& affine, const std::string& out_dtype) {
    if (window.ndim() != 1) {
        throw py::value_error("window is " + describe(window) + "; expected [win_length]");
    }
    if (filters.ndim() != 2 || filters.shape(0) != n_fft / 2 + 1) {
        throw py::value_error("filters is " + describe(filters) + "; expected [" +
                              std::to_string(n_fft / 2 + 1) + ", n_mels]");
    }
    if (affine &&
        (affine->ndim() != 2 || affine->shape(0) != 2 || affine->shape(1) != filters.shape(1))) {
        throw py::value_error("affine is " + describe(*affine) + "; expected [2, " +
                              std::to_string(filters.shape(1)) + "]");
    }
    const std::optional<DType> out = dtype_of(out_dtype);
    if (!out) {
        throw py::value_error("out_dtype is '" + out_dtype +
                              "'; expected 'float32', 'float16' or 'bfloat16'");
    }
    const FrontendSettings settings{n_fft,
                                    window.shape(0),
                                    hop_length,
                                    filters.shape(1),
                                    is_first("padding", padding, "reflect", "none"),
                                    remove_dc,
                                    is_first("spectrum", spectrum, "magnitude", "power"),
                                    preemphasis,
                                    logarithm_of(log),
                                    log_offset,
                                    mean,
                                    std ? 2.0 * *std : 1.0,
                                    *out};
    return make_frontend_tables(settings, window.data(), filters.data(),
                                affine ? affine->data() : nullptr);
}

py::bytes bytes_of(const FrontendTables& frontend) {
    return {reinterpret_cast<const char*>(frontend.words.data()),
            frontend.words.size() * sizeof frontend.words[0]};
}

void run_cuda(const FrontendTables& frontend, Address tables, Address samples,
              const std::string& dtype, std::int64_t clips, std::int64_t stride, Address lengths,
              std::int64_t frames, std::int64_t least, Address out, std::int64_t out_frames,
              Address flags, Address stream) {
    const bool int16 = is_first("dtype", dtype, "int16", "float32");
    const FrontendCall call{pointer<const void>(samples),
                            int16 ? SampleType::kInt16 : SampleType::kFloat32,
                            clips,
                            stride,
                            pointer<const std::int64_t>(lengths),
                            frames,
                            least,
                            pointer<void>(out),
                            out_frames,
                            pointer<std::uint32_t>(flags)};
    const py::gil_scoped_release release;
    log_mel_cuda(frontend, pointer<const void>(tables), call, pointer<void>(stream));
}

// NumPy has no BF16.
py::dtype dtype_in_numpy(DType dtype) {
    return py::dtype(dtype == DType::kFloat32   ? "float32"
                     : dtype == DType::kFloat16 ? "float16"
                                                : "uint16");
}

using Lengths = py::array_t<std::int64_t, py::array::c_style>;
using Flags = py::array_t<std::uint32_t, py::array::c_style>;

py::array run_host_grid(const FrontendTables& frontend, const py::array& samples,
                        std::int64_t frames, std::int64_t least,
                        const std::optional<Lengths>& lengths,
                        std::optional<std::int64_t> out_frames, const std::optional<Flags>& flags) {
    const bool int16 = py::isinstance<py::array_t<std::int16_t>>(samples);
    if (!int16 && !py::isinstance<py::array_t<float>>(samples)) {
        throw py::type_error("samples is " + describe(samples) + "; expected float32 or int16");
    }
    if (samples.ndim() != 2 || (samples.flags() & py::array::c_style) == 0) {
        throw py::value_error("samples is " + describe(samples) +
                              "; expected [B, N], C-contiguous");
    }
    check_aligned(samples, "samples");
    if (lengths) check_aligned(*lengths, "lengths");
    if (flags) check_aligned(*flags, "flags");
    const std::int64_t clips = samples.shape(0);
    const std::int64_t stride = samples.shape(1);
    Lengths all(clips);
    for (std::int64_t b = 0; b < clips; ++b) all.mutable_at(b) = stride;
    const Lengths& counted = lengths ? *lengths : all;
    if (counted.ndim() != 1 || counted.shape(0) != clips) {
        throw py::value_error("lengths is " + describe(counted) + "; expected [" +
                              std::to_string(clips) + "]");
    }
    for (std::int64_t b = 0; b < clips; ++b) {
        if (counted.at(b) >= 0 && counted.at(b) <= stride) continue;
        throw py::value_error("lengths[" + std::to_string(b) + "] is " +
                              std::to_string(counted.at(b)) + "; expected 0 to " +
                              std::to_string(stride));
    }
    if (flags && (flags->ndim() != 1 || flags->shape(0) != clips)) {
        throw py::value_error("flags is " + describe(*flags) + "; expected [" +
                              std::to_string(clips) + "]");
    }
    FrontendCall call{samples.data(),
                      int16 ? SampleType::kInt16 : SampleType::kFloat32,
                      clips,
                      stride,
                      counted.data(),
                      frames,
                      least,
                      nullptr,
                      out_frames.value_or(frames),
                      flags ? Flags(*flags).mutable_data() : nullptr};
    check_frontend_call(frontend.params, call);
    py::array out(dtype_in_numpy(frontend.params.out),
                  {clips, call.out_frames, std::int64_t{frontend.params.n_mels}});
    call.out = out.mutable_data();
    {
        const py::gil_scoped_release release;
        log_mel_on_host_grid(frontend, call);
    }
    return out;
}

}  // namespace

void bind_frontend(py::module_& module) {
    py::class_<FrontendTables>(module, "FrontendTables",
                               "What the frontend kernel computes; made once, then read only.")
        .def(py::init(&make_tables), py::kw_only(), py::arg("n_fft"), py::arg("hop_length"),
             py::arg("padding"), py::arg("remove_dc"), py::arg("preemphasis"), py::arg("spectrum"),
             py::arg("log"), py::arg("log_offset"), py::arg("mean"), py::arg("std"),
             py::arg("window"), py::arg("filters"), py::arg("affine") = py::none(),
             py::arg("out_dtype") = "float32")
        .def_property_readonly("data", &bytes_of,
                               "Window, twiddles and mel weights: the bytes that the kernel needs "
                               "in device memory, at a multiple of 16.")
        .def_property_readonly(
            "n_mels", [](const FrontendTables& frontend) { return frontend.params.n_mels; });

    module.def("log_mel_cuda", &run_cuda,
               "Queue the log-mel [clips, out_frames, n_mels] of samples in device memory on "
               "`stream`, in the tables' type. A clip too short for `frames` is padded with zeros.",
               py::arg("frontend"), py::kw_only(), py::arg("tables"), py::arg("samples"),
               py::arg("dtype"), py::arg("clips"), py::arg("stride"), py::arg("lengths") = 0,
               py::arg("frames"), py::arg("least") = 0, py::arg("out"), py::arg("out_frames"),
               py::arg("flags") = 0, py::arg("stream") = 0);
    module.def("log_mel_on_host_grid", &run_host_grid,
               "The log-mel by the CUDA kernel's algorithm, lane by lane on the host: for tests. "
               "BF16 comes as uint16.",
               py::arg("frontend"), py::arg("samples"), py::kw_only(), py::arg("frames"),
               py::arg("least") = 0, py::arg("lengths").noconvert() = py::none(),
               py::arg("out_frames") = py::none(),
               py::arg("flags").noconvert() = py::none());  // a copy of flags would be lost
}

}  // namespace fusion_engine
