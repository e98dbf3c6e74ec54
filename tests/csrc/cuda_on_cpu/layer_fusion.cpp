// The layer fusion kernels for the CPU.
#include "cuda_runtime_api.h"

// Its shared memory is the launch's: `extern __shared__ std::byte shared[]`, which is this array.
#define __shared__
namespace fusion_engine {
namespace {

alignas(16) std::byte shared[48 * 1024];  // what a launch may ask for
[[maybe_unused]] const bool named = (cuda_on_cpu::dynamic_shared = std::span(shared), true);

}  // namespace
}  // namespace fusion_engine

#include "../../../csrc/layer_fusion_cuda.cu"
