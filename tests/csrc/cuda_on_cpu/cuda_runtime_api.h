// As much of CUDA as the kernels and their launchers use, on the CPU: for tests.
//
// Every CUDA thread of a block is a thread of the operating system and barriers are real, so that
// ThreadSanitizer sees a barrier that is missing and AddressSanitizer an index that is wrong.
// Blocks run one after another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(...)

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorInvalidValue };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
using cudaStream_t = void*;

struct dim3 {
    unsigned x = 1;
    unsigned y = 1;
    unsigned z = 1;
};

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
};

namespace cuda_on_cpu {

// What `extern __shared__` names; a launch may touch the first dynamicSmemBytes of it.
extern std::span<std::byte> dynamic_shared;

cudaError_t run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel);

// Whether the other threads, of the block or of the warp, wait here too. A barrier is left out
// where the environment's FUSION_ENGINE_OMIT_BARRIER is its number among a thread's barriers.
void block_barrier();
void warp_barrier();

// `value` of the thread `delta` lanes up in the warp; its own where the warp ends.
std::uint32_t shuffle_down(std::uint32_t value, unsigned delta);

}  // namespace cuda_on_cpu

extern thread_local dim3 threadIdx;
extern thread_local dim3 blockIdx;
extern thread_local dim3 blockDim;

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }
inline void __syncwarp() { cuda_on_cpu::warp_barrier(); }

inline unsigned atomicOr(unsigned* address, unsigned value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
    return cuda_on_cpu::run_grid(*config, [&] { kernel(arguments...); });
}

// One multiprocessor, which few threads fill: the grid is that of a GPU which is not full.
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    return *value = 1, cudaSuccess;
}
inline const char* cudaGetErrorName(cudaError_t) { return "cudaError_t"; }
inline const char* cudaGetErrorString(cudaError_t) { return "of the kernels on the CPU"; }
