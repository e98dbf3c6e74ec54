// Kernel launches by a function of the runtime's: what `<<<>>>` says, only nvcc can parse.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusion_engine {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads,
                   std::size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    cudaLaunchConfig_t config{};
    config.gridDim.x = static_cast<unsigned>(blocks);
    config.blockDim.x = static_cast<unsigned>(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace fusion_engine
