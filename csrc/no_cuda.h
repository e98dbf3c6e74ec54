// What the stubs of a build without CUDA throw.
#pragma once

#include <stdexcept>

namespace fusion_engine {

[[noreturn]] inline void throw_built_without_cuda() {
    throw std::runtime_error(
        "this fusion_engine was built without CUDA; install nvcc and build it again with "
        "FUSION_ENGINE_CUDA=ON in the environment of `pip install`");
}

}  // namespace fusion_engine
