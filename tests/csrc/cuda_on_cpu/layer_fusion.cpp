// The layer fusion kernels for the CPU.
#include "cuda_runtime_api.h"

// Its shared memory is the launch's: `extern __shared__ float shared[]`, which is this array.
#define __shared__
namespace fusion_engine {
namespace {

float shared[12 * 1024];  // 48 KB, what a launch may ask for
[[maybe_unused]] const bool named =
    (cuda_on_cpu::dynamic_shared = std::as_writable_bytes(std::span(shared)), true);

}  // namespace
}  // namespace fusion_engine

#include "../../../csrc/layer_fusion_cuda.cu"
