// The CUDA launcher of the frontend: device pointers and a stream, nothing is checked.
#pragma once

#include <cuda_runtime_api.h>

#include "frontend_grid.h"

namespace fusion_engine {

// `table_words`: the size of the tables in words of 4 bytes.
cudaError_t launch_log_mel(const FrontendTask& task, std::int32_t table_words, cudaStream_t stream);

}  // namespace fusion_engine
