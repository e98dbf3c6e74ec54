// Layer fusion on the GPU: one launch for all layers, each input byte read once, no intermediate
// in device memory; frame features, where they are wanted, in a second launch. The algorithm is in
// layer_fusion_grid.h and layer_fusion_lane.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda_launch.h"
#include "layer_fusion_cuda.h"
#include "layer_fusion_frames.h"

namespace fusion_engine {
namespace {

// The kernel's arguments; 4 KB is the limit of every supported architecture.
static_assert(sizeof(GridTask) <= 4096);

// The thread's. Computed again by every call.
__device__ GridPlace place_of(const GridTask& task) {
#if defined(__CUDA_ARCH__)
    unsigned block;
    std::int32_t thread;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
#else
    const unsigned block = blockIdx.x;
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
#endif
    return place_of(task, block, thread);
}

struct DeviceBlock {
    const GridTask& task;
    std::byte* shared;  // sums [V][kBlockThreads], then maxima [kBlockThreads]

    template <class T, int V>
    __device__ void operator()() const {
        auto* sums = reinterpret_cast<CompensatedSum*>(shared) + threadIdx.x;
        auto* largest = reinterpret_cast<Word<T, V>*>(shared + V * kBlockThreads * sizeof *sums);
        LaneTotal<T, V> total;
        total.sums = sums;
        total.stride = kBlockThreads;
        reduce_lane(task, [&] { return place_of(task); }, total);

        const GridPlace place = place_of(task);
        const LayerGrid& grid = task.grid.layers[place.layer];
        if (total.not_finite) atomicOr(task.output.flags + place.clip, 1u << place.layer);
        FUSION_NO_UNROLL
        for (std::int32_t step = task.grid.time_lanes / 2; step > 0; step /= 2) {
            const std::int32_t distance = step * grid.adjacent;
            if (place.time_lane >= step && place.time_lane < 2 * step) {
                largest[threadIdx.x] = total.largest;
            }
            if (distance < kWarpThreads) {
                __syncwarp();
            } else {
                __syncthreads();
            }
            if (place.time_lane < step) {
                total.merge(sums + distance, largest[threadIdx.x + distance]);
            }
        }
        if (place.item < grid.items && place.time_lane == 0) store_item(task, place, total);
    }
};

struct DeviceFrames {
    const GridTask& task;

    template <class T, int V>
    __device__ void operator()() const {
        write_frames<T, V>(task, place_of(task));
    }
};

// Leaves 64 registers to a thread, half of them for the rows in flight: 128 KB of a multiprocessor,
// some four times what hides the latency of device memory on an H200.
constexpr int kBlocksAtOnce = 4;

__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce)
    fuse_kernel(const __grid_constant__ GridTask task) {
    extern __shared__ __align__(kWordBytes) std::byte shared[];
    dispatch(task, place_of(task).layer, DeviceBlock{task, shared});
}

__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce)
    frames_kernel(const __grid_constant__ GridTask task) {
    dispatch(task, place_of(task).layer, DeviceFrames{task});
}

__global__ void __launch_bounds__(kBlockThreads)
    finalize_kernel(FusionState state, std::int64_t size, std::int64_t dim, Head head,
                    float* embedding) {
    const std::int64_t i = std::int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
    if (i >= size) return;
    embedding[i] = embedding_of(state, i, dim, head);
}

// Of a thread: its sums, and the maxima as they were loaded.
std::size_t total_bytes(const GridTask& task, std::int32_t layer) {
    const auto width = static_cast<std::size_t>(task.grid.layers[layer].axis.width);
    return width * (sizeof(CompensatedSum) + size_of(task.input.layers[layer].dtype));
}

}  // namespace

cudaError_t launch_fusion(const GridTask& task, cudaStream_t stream) {
    const std::int64_t blocks = task.input.clips * task.grid.blocks_per_clip;
    std::size_t shared_bytes = 0;
    for (std::int32_t l = 0; l < task.input.layer_count; ++l) {
        shared_bytes = std::max(shared_bytes, total_bytes(task, l) * kBlockThreads);
    }
    const cudaError_t error =
        launch(fuse_kernel, blocks, kBlockThreads, shared_bytes, stream, task);
    if (error != cudaSuccess || task.output.frames.data == nullptr) return error;
    return launch(frames_kernel, blocks, kBlockThreads, 0, stream, task);
}

cudaError_t launch_finalize(const FusionState& state, std::int64_t clips, std::int64_t dim,
                            Head head, float* embedding, cudaStream_t stream) {
    const std::int64_t size = clips * dim;
    const std::int64_t blocks = (size + kBlockThreads - 1) / kBlockThreads;
    return launch(finalize_kernel, blocks, kBlockThreads, 0, stream, state, size, dim, head,
                  embedding);
}

}  // namespace fusion_engine
