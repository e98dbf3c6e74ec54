// The CUDA launchers of layer fusion: device pointers and a stream, nothing is checked.
#pragma once

#include <cuda_runtime_api.h>

#include "layer_fusion_grid.h"

namespace fusion_engine {

cudaError_t launch_fusion(const GridTask& task, cudaStream_t stream);

cudaError_t launch_finalize(const FusionState& state, std::int64_t clips, std::int64_t dim,
                            Head head, float* embedding, cudaStream_t stream);

}  // namespace fusion_engine
