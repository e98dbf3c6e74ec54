// Checks, grid and errors of layer fusion on CUDA.
#include <stdexcept>
#include <string>

#include "cuda_check.h"
#include "layer_fusion_cuda.h"

namespace fusion_engine {
namespace {

// Threads per multiprocessor that keep enough loads in flight to saturate its memory.
constexpr std::int64_t kThreadsPerMultiprocessor = 1024;

std::int64_t target_threads() {
    int device = 0;
    int multiprocessors = 0;
    check_cuda(cudaGetDevice(&device), "finding the current CUDA device");
    check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
               "asking CUDA device " + std::to_string(device) + " for its size");
    return multiprocessors * kThreadsPerMultiprocessor;
}

}  // namespace

void fuse_cuda(const FusionInput& input, const FusionOutput& output, void* stream) {
    const bool uniform = input.offsets == nullptr && input.counts == nullptr;
    if (uniform && input.frames == 0 && output.embedding != nullptr) {
        throw std::invalid_argument("the layer outputs have T_o = 0; expected at least one frame");
    }
    const GridTask task{input, output, make_grid(input, target_threads())};
    check_cuda(launch_fusion(task, static_cast<cudaStream_t>(stream)), "launching layer fusion");
}

void finalize_cuda(const FusionState& state, std::int64_t clips, std::int64_t dim, Head head,
                   float* embedding, void* stream) {
    check_cuda(
        launch_finalize(state, clips, dim, head, embedding, static_cast<cudaStream_t>(stream)),
        "launching the end of layer fusion");
}

}  // namespace fusion_engine
