// The frontend on the GPU: one launch, one group of lanes per frame, no intermediate in device
// memory. The algorithm is in frontend_grid.h.
#include <cstdint>

#include "cuda_launch.h"
#include "frontend_cuda.h"

namespace fusion_engine {
namespace {

constexpr int kLineWords = 32;  // of the L1 cache

template <int kPoints>
struct DeviceGroup {
    const FrontendTask& task;
    Complex* shared;  // [kPoints], this group's
    std::int32_t index;
    FrameLane lane;

    __device__ Complex* points() { return shared; }
    __device__ float* values() { return &shared[0].re; }

    template <class Function>
    __device__ void phase(Function function) {
        function(lane, index);
        if constexpr (FrontendShape<kPoints>::kLanes <= 32) {
            __syncwarp();
        } else {
            __syncthreads();
        }
    }

    __device__ void report(const FrameLane& state, const FramePlace& place) const {
        if (state.check != 0.0f && task.call.flags != nullptr) {
            atomicOr(task.call.flags + place.clip, 1u);
        }
    }
};

// Reads a word whose value is not used.
__device__ void touch(const std::uint32_t* word) {
#if defined(__CUDA_ARCH__)
    [[maybe_unused]] std::uint32_t unused;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(unused) : "l"(word));
#else
    static_cast<void>(*const_cast<const volatile std::uint32_t*>(word));
#endif
}

// Asks for every line of the tables, so that their latencies run beside the samples' and not one
// after another when the phases first need them.
__device__ void warm_tables(const std::uint32_t* tables, std::int32_t words) {
    for (std::int32_t i = threadIdx.x * kLineWords; i < words; i += blockDim.x * kLineWords) {
        touch(tables + i);
    }
}

// Of one multiprocessor: leaves 80 registers to a thread. The points take 16, the rest holds the
// twiddles on their way; with 64 some sizes spill.
constexpr int kThreadsAtOnce = 768;

template <int kPoints>
__global__ void __launch_bounds__(FrontendShape<kPoints>::kThreads,
                                  kThreadsAtOnce / FrontendShape<kPoints>::kThreads)
    log_mel_kernel(const __grid_constant__ FrontendTask task, std::int32_t table_words) {
    using Shape = FrontendShape<kPoints>;
    __shared__ Complex shared[Shape::kFramesPerBlock * kPoints];
    warm_tables(task.tables, table_words);
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    const std::int32_t frame = thread / Shape::kLanes;
    DeviceGroup<kPoints> group{task, shared + frame * kPoints, thread % Shape::kLanes, {}};
    log_mel_frame<kPoints>(task, frame_place<kPoints>(task.call, blockIdx.x, frame), group);
}

struct Launch {
    const FrontendTask& task;
    std::int32_t table_words;
    cudaStream_t stream;
    cudaError_t error;

    template <int kPoints>
    void operator()() {
        const std::int64_t blocks = task.call.clips * blocks_per_clip<kPoints>(task.call);
        error = launch(log_mel_kernel<kPoints>, blocks, FrontendShape<kPoints>::kThreads, 0, stream,
                       task, table_words);
    }
};

}  // namespace

cudaError_t launch_log_mel(const FrontendTask& task, std::int32_t table_words,
                           cudaStream_t stream) {
    Launch launch{task, table_words, stream, cudaSuccess};
    dispatch_points(task.params.n_fft, launch);
    return launch.error;
}

}  // namespace fusion_engine
