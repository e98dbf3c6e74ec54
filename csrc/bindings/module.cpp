// fusion_engine._core
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "bindings.h"

namespace {

std::vector<std::string> cuda_architectures() {
    std::vector<std::string> names;
    std::istringstream list(FUSION_ENGINE_CUDA_TARGETS);
    for (std::string name; std::getline(list, name, ',');) names.push_back(name);
    return names;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "Native kernels of fusion_engine.";
    module.attr("__version__") = FUSION_ENGINE_VERSION;
    module.attr("cuda_enabled") = !cuda_architectures().empty();
    module.def("cuda_architectures", &cuda_architectures,
               "What the CUDA kernels are compiled for: sm_NN is machine code, compute_NN is PTX.");
    fusion_engine::bind_frontend(module);
    fusion_engine::bind_layer_fusion(module);
    fusion_engine::bind_layer_fusion_cuda(module);
    fusion_engine::bind_program(module);
}
