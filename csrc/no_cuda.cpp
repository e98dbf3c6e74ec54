// What a build without CUDA has in place of the kernels.
#include <stdexcept>

#include "frontend.h"
#include "layer_fusion.h"

namespace fusion_engine {
namespace {

[[noreturn]] void fail() {
    throw std::runtime_error(
        "this fusion_engine was built without CUDA; install nvcc and build it again with "
        "FUSION_ENGINE_CUDA=ON in the environment of `pip install`");
}

}  // namespace

void log_mel_cuda(const FrontendTables&, const void*, const FrontendCall&, void*) { fail(); }

void fuse_cuda(const FusionInput&, const FusionOutput&, void*) { fail(); }

void finalize_cuda(const FusionState&, std::int64_t, std::int64_t, Head, float*, void*) { fail(); }

}  // namespace fusion_engine
