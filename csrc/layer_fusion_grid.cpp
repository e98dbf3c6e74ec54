// The plan of the CUDA launch, and its host build: thread by thread, in the kernel's order.
#include "layer_fusion_grid.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace fusion_engine {
namespace {

std::int32_t power_of_two_factor(std::int32_t value) {
    return 1 << std::countr_zero(static_cast<std::uint32_t>(value));
}

struct HostBlock {
    const GridTask& task;
    std::int64_t block;
    const GridLayer& grid;

    template <class T, int V>
    void operator()() const {
        std::vector<LaneReduction<V>> lanes(kBlockThreads);
        std::int64_t counted = 0;
        for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
            const GridPlace place = place_of(task, block, thread);
            LaneReduction<V>& lane = lanes[static_cast<std::size_t>(thread)];
            lane.clear();
            if (place.item >= grid.items) continue;
            counted = reduce_lane<T, V>(task, place, lane);
            if (lane.check != 0.0f) task.output.flags[place.clip] |= 1u << place.layer;
        }
        for (std::int32_t step = task.plan.time_lanes / 2; step > 0; step /= 2) {
            for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
                if (place_of(task, block, thread).time_lane >= step) continue;
                const auto other = static_cast<std::size_t>(thread + step * grid.adjacent);
                for (int i = 0; i < V; ++i) {
                    lanes[static_cast<std::size_t>(thread)].total[i].merge(lanes[other].total[i]);
                }
            }
        }
        for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
            const GridPlace place = place_of(task, block, thread);
            if (place.item >= grid.items || place.time_lane != 0) continue;
            store_item(task, place, lanes[static_cast<std::size_t>(thread)], counted);
        }
    }
};

}  // namespace

GridPlan plan_grid(const FusionInput& input, std::int64_t target_threads) {
    GridPlan plan{};
    std::int64_t items = 0;
    std::int32_t d = 0;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        const LayerOutput& layer = input.layers[l];
        GridLayer& grid = plan.layers[l];
        grid.axis =
            choose_item_axis(layer, input.segments, kWordBytes / size_of(layer.dtype), true);
        grid.items = item_count(layer, grid.axis);
        grid.first_d = d;
        d += layer.dim();
        items += grid.items;
    }

    const std::int64_t clips = std::max<std::int64_t>(input.clips, 1);
    const std::int64_t frames_per_clip = input.frames * input.segments / clips;
    plan.time_lanes = 1;
    while (plan.time_lanes < kMaxTimeLanes && plan.time_lanes < frames_per_clip &&
           clips * items * plan.time_lanes < target_threads) {
        plan.time_lanes *= 2;
    }

    const std::int32_t items_per_block = kBlockThreads / plan.time_lanes;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        GridLayer& grid = plan.layers[l];
        const std::int32_t run = grid.axis.along_channels
                                     ? items_per_block
                                     : power_of_two_factor(input.layers[l].freq / grid.axis.width);
        grid.adjacent = std::min(run, items_per_block);
        grid.first_block = plan.blocks_per_clip;
        plan.blocks_per_clip += (grid.items + items_per_block - 1) / items_per_block;
    }
    return plan;
}

void fuse_on_host_grid(const FusionInput& input, const FusionOutput& output,
                       std::int64_t target_threads) {
    const std::vector<std::int64_t> counted = check_arrays(input, output);
    const GridTask task{input, output, plan_grid(input, target_threads)};
    const std::int64_t blocks = input.clips * task.plan.blocks_per_clip;
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int32_t layer = place_of(task, block, 0).layer;
        HostBlock run{task, block, task.plan.layers[layer]};
        dispatch(input.layers[layer].dtype, task.plan.layers[layer].axis.width, run);
    }
    if (output.embedding == nullptr) {
        for (std::int64_t b = 0; b < input.clips; ++b) {
            output.state.count[b] += static_cast<float>(counted[static_cast<std::size_t>(b)]);
        }
    }
}

}  // namespace fusion_engine
