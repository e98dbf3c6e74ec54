#pragma once

#include <pybind11/pybind11.h>

namespace fusion_engine {

void bind_frontend(pybind11::module_& module);
void bind_layer_fusion(pybind11::module_& module);
void bind_layer_fusion_cuda(pybind11::module_& module);
void bind_program(pybind11::module_& module);

}  // namespace fusion_engine
