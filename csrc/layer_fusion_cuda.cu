// Layer fusion on the GPU: one launch for all layers, each input byte read once, no intermediate
// in device memory. The algorithm is in layer_fusion_grid.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda_launch.h"
#include "layer_fusion_cuda.h"

namespace fusion_engine {
namespace {

// The kernel's arguments; 4 KB is the limit of every supported architecture.
static_assert(sizeof(GridTask) <= 4096);

struct DeviceBlock {
    const GridTask& task;
    const GridPlace& place;
    float* shared;  // [3 * V][kBlockThreads], no bank is hit twice by a warp

    template <int V>
    __device__ void put(const LaneReduction<V>& lane) {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            float* slot = shared + 3 * i * kBlockThreads + threadIdx.x;
            slot[0] = lane.total[i].sum;
            slot[kBlockThreads] = lane.total[i].compensation;
            slot[2 * kBlockThreads] = lane.total[i].max;
        }
    }

    template <int V>
    __device__ void merge(LaneReduction<V>& lane, std::int32_t other) {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            const float* slot = shared + 3 * i * kBlockThreads + other;
            lane.total[i].merge({slot[0], slot[kBlockThreads], slot[2 * kBlockThreads]});
        }
    }

    template <class T, int V>
    __device__ void operator()() {
        const LayerGrid& grid = task.grid.layers[place.layer];
        const auto thread = static_cast<std::int32_t>(threadIdx.x);
        LaneReduction<V> lane;
        lane.clear();
        std::int64_t counted = 0;
        if (place.item < grid.items) {
            counted = reduce_lane<T, V>(task, place, lane);
            if (lane.check != 0.0f) atomicOr(task.output.flags + place.clip, 1u << place.layer);
        }
        for (std::int32_t step = task.grid.time_lanes / 2; step > 0; step /= 2) {
            if (place.time_lane >= step && place.time_lane < 2 * step) put(lane);
            __syncthreads();
            if (place.time_lane < step) merge(lane, thread + step * grid.adjacent);
            __syncthreads();
        }
        if (place.item < grid.items && place.time_lane == 0) {
            store_item(task, place, lane, counted);
        }
    }
};

// Two blocks of a multiprocessor leave 128 registers to a thread: 64 KB of loads in flight, twice
// what hides the latency of device memory on an H200.
__global__ void __launch_bounds__(kBlockThreads, 2)
    fuse_kernel(const __grid_constant__ GridTask task) {
    extern __shared__ float shared[];
    const GridPlace place = place_of(task, blockIdx.x, static_cast<std::int32_t>(threadIdx.x));
    DeviceBlock run{task, place, shared};
    dispatch(task.input.layers[place.layer].dtype, task.grid.layers[place.layer].axis.width, run);
}

__global__ void __launch_bounds__(kBlockThreads)
    finalize_kernel(FusionState state, std::int64_t size, std::int64_t dim, Head head,
                    float* embedding) {
    const std::int64_t i = std::int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
    if (i >= size) return;
    embedding[i] = embedding_of(state, i, dim, head);
}

}  // namespace

cudaError_t launch_fusion(const GridTask& task, cudaStream_t stream) {
    const std::int64_t blocks = task.input.clips * task.grid.blocks_per_clip;
    int widest = 1;
    for (std::int32_t l = 0; l < task.input.layer_count; ++l) {
        widest = std::max(widest, task.grid.layers[l].axis.width);
    }
    const std::size_t shared_bytes =
        task.grid.time_lanes == 1 ? 0 : sizeof(float) * 3 * widest * kBlockThreads;
    return launch(fuse_kernel, blocks, kBlockThreads, shared_bytes, stream, task);
}

cudaError_t launch_finalize(const FusionState& state, std::int64_t clips, std::int64_t dim,
                            Head head, float* embedding, cudaStream_t stream) {
    const std::int64_t size = clips * dim;
    const std::int64_t blocks = (size + kBlockThreads - 1) / kBlockThreads;
    return launch(finalize_kernel, blocks, kBlockThreads, 0, stream, state, size, dim, head,
                  embedding);
}

}  // namespace fusion_engine
