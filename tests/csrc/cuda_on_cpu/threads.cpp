// Blocks of CUDA threads as threads of the operating system.
#include <algorithm>
#include <barrier>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cuda_runtime_api.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

thread_local dim3 threadIdx;
thread_local dim3 blockIdx;
thread_local dim3 blockDim;

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarp = 32;

struct Block {
    explicit Block(unsigned threads) : all(threads), slots(threads) {
        for (unsigned first = 0; first < threads; first += kWarp) {
            warps.push_back(std::make_unique<std::barrier<>>(std::min(kWarp, threads - first)));
        }
    }

    std::barrier<>& warp() { return *warps[threadIdx.x / kWarp]; }

    std::barrier<> all;
    std::vector<std::unique_ptr<std::barrier<>>> warps;
    std::vector<std::uint32_t> slots;  // of shuffles, one a thread
};

thread_local Block* block = nullptr;
thread_local int barriers = 0;

bool is_left_out() {
    static const char* const omitted = std::getenv("FUSION_ENGINE_OMIT_BARRIER");
    return omitted != nullptr && std::to_string(barriers++) == omitted;
}

}  // namespace

std::span<std::byte> dynamic_shared;

void block_barrier() {
    if (!is_left_out()) block->all.arrive_and_wait();
}

void warp_barrier() {
    if (!is_left_out()) block->warp().arrive_and_wait();
}

std::uint32_t shuffle_down(std::uint32_t value, unsigned delta) {
    const unsigned thread = threadIdx.x;
    block->slots[thread] = value;
    block->warp().arrive_and_wait();
    if (thread % kWarp + delta < kWarp) value = block->slots[thread + delta];
    block->warp().arrive_and_wait();
    return value;
}

cudaError_t run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
    const std::size_t bytes = config.dynamicSmemBytes;
    const unsigned threads = config.blockDim.x;
    if (bytes > dynamic_shared.size() || threads == 0) return cudaErrorInvalidValue;
    ASAN_POISON_MEMORY_REGION(dynamic_shared.data() + bytes, dynamic_shared.size() - bytes);
    std::deque<Block> blocks;
    for (unsigned index = 0; index < config.gridDim.x; ++index) blocks.emplace_back(threads);
    // Shared memory is whatever it was: NaN shows what is read before it is written.
    const auto forget = [&]() noexcept {
        std::fill_n(dynamic_shared.data(), bytes, std::byte{0xff});
    };
    std::barrier between_blocks(threads, forget);
    const auto run = [&](unsigned thread) {
        threadIdx.x = thread;
        blockDim = config.blockDim;
        for (unsigned index = 0; index < config.gridDim.x; ++index) {
            between_blocks.arrive_and_wait();
            blockIdx.x = index;
            block = &blocks[index];
            barriers = 0;
            kernel();
            // Those that have left are not waited for.
            block->warp().arrive_and_drop();
            block->all.arrive_and_drop();
        }
    };
    {
        std::vector<std::jthread> all;
        for (unsigned thread = 0; thread < threads; ++thread) all.emplace_back(run, thread);
    }
    ASAN_UNPOISON_MEMORY_REGION(dynamic_shared.data(), dynamic_shared.size());
    return cudaSuccess;
}

}  // namespace cuda_on_cpu
