// Layer fusion on the CPU: the CUDA algorithm, block by block and in a block thread by thread.
//
// One of the CPU's own, in wide vectors, is several times as fast, which no embedding shows: the
// network takes hundreds of times as long as this (``EngineStats`` has both).
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "layer_fusion_frames.h"

namespace fusion_engine {
namespace {

// Half a millisecond of work: less is not worth starting a thread for.
constexpr double kBytesPerThread = 1 << 20;

struct HostBlock {
    const GridTask& task;
    std::int64_t block;
    std::int32_t layer;

    template <class T, int V>
    void operator()() const {
        const LayerGrid& grid = task.grid.layers[layer];
        CompensatedSum sums[kBlockThreads][V];
        LaneTotal<T, V> totals[kBlockThreads];
        bool not_finite = false;
        for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
            LaneTotal<T, V>& total = totals[thread];
            total.sums = sums[thread];
            total.stride = 1;
            const GridPlace place = place_of(task, block, thread);
            reduce_lane(task, [&] { return place; }, total);
            not_finite |= total.not_finite;
        }
        if (not_finite) {
            const std::int32_t clip = place_of(task, block, 0).clip;
            std::atomic_ref(task.output.flags[clip])
                .fetch_or(1u << layer, std::memory_order_relaxed);
        }
        for (std::int32_t step = task.grid.time_lanes / 2; step > 0; step /= 2) {
            for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
                if (thread / grid.adjacent % task.grid.time_lanes >= step) continue;
                const std::int32_t other = thread + step * grid.adjacent;
                totals[thread].merge(sums[other], totals[other].largest);
            }
        }
        for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
            const GridPlace place = place_of(task, block, thread);
            if (place.item >= grid.items || place.time_lane != 0) continue;
            store_item(task, place, totals[thread]);
        }
    }
};

struct HostFrames {
    const GridTask& task;
    std::int64_t block;

    template <class T, int V>
    void operator()() const {
        for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
            write_frames<T, V>(task, place_of(task, block, thread));
        }
    }
};

void run_block(const GridTask& task, std::int64_t block) {
    const std::int32_t layer = place_of(task, block, 0).layer;
    dispatch(task, layer, HostBlock{task, block, layer});
    if (task.output.frames.data != nullptr) dispatch(task, layer, HostFrames{task, block});
}

// As double: of repeated rows the product can exceed 64 bits.
double bytes_read(const FusionInput& input, std::int64_t counted) {
    double bytes = 0;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        const LayerOutput& layer = input.layers[l];
        bytes +=
            static_cast<double>(counted) * layer.dim() * layer.time_pool * size_of(layer.dtype);
    }
    return bytes;
}

}  // namespace

void fuse_cpu(const FusionInput& input, const FusionOutput& output, int threads,
              std::int64_t target_threads) {
    const double bytes = bytes_read(input, check_arrays(input, output));
    const GridTask task{input, output, make_grid(input, target_threads)};
    const std::int64_t blocks = input.clips * task.grid.blocks_per_clip;
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        const auto following = [&] { return next.fetch_add(1, std::memory_order_relaxed); };
        for (auto block = following(); block < blocks; block = following()) run_block(task, block);
    };
    const std::int64_t most = std::clamp<std::int64_t>(blocks, 1, threads);
    const auto workers = std::clamp(bytes / kBytesPerThread, 1.0, static_cast<double>(most));
    std::vector<std::jthread> others;
    try {
        for (int i = 1; i < static_cast<int>(workers); ++i) others.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads can start: those that did, and this one, do the work.
    }
    work();
}

void finalize_cpu(const FusionState& state, std::int64_t clips, std::int64_t dim, Head head,
                  float* embedding) {
    for (std::int64_t i = 0; i < clips * dim; ++i) {
        embedding[i] = embedding_of(state, i, dim, head);
    }
}

}  // namespace fusion_engine
