// Python's names and shapes as the kernels' types, shared by the host and the CUDA bindings.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../layer_fusion.h"

namespace fusion_engine {

// Of device memory; null is 0.
using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// Of what pybind11 makes or takes: items at multiples of their size, as the kernels read them.
constexpr int kAligned = pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_;

// "float32 (2, 3)"
std::string describe(const pybind11::array& array);

// Throws pybind11::value_error where the items are not at multiples of their size.
void check_aligned(const pybind11::array& array, const std::string& name);

// NumPy's and ml_dtypes' names; null for another type or byte order.
std::optional<DType> dtype_of(const std::string& name);

// Throws std::invalid_argument.
Head head_of(const std::string& name);

// A map's or vector's descriptor; strides count elements. Throws std::invalid_argument.
LayerOutput make_layer(const void* data, DType dtype, const std::vector<std::int64_t>& shape,
                       const std::vector<std::int64_t>& strides, std::int64_t time_pool,
                       const std::string& name);

// The input of a call. Throws std::invalid_argument.
FusionInput make_input(const std::vector<LayerOutput>& layers, std::int64_t clips,
                       const std::int64_t* offsets, const std::int64_t* begins,
                       const std::int64_t* counts);

}  // namespace fusion_engine
