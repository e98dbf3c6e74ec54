// How a call fills the grid of a launch.
#include "layer_fusion_grid.h"

#include <algorithm>
#include <bit>

namespace fusion_engine {
namespace {

std::int32_t power_of_two_factor(std::int32_t value) {
    return 1 << std::countr_zero(static_cast<std::uint32_t>(value));
}

// Whether every item of `width` values can be loaded as one aligned word.
bool word_aligned(const LayerOutput& layer, bool along_channels, int width) {
    const std::int64_t word = static_cast<std::int64_t>(width) * size_of(layer.dtype);
    const auto fits = [&](std::int64_t extent, std::int64_t stride) {
        return extent <= 1 || stride % width == 0;
    };
    return reinterpret_cast<std::uintptr_t>(layer.data) % static_cast<std::uintptr_t>(word) == 0 &&
           fits(layer.segments, layer.stride_segment) && fits(layer.time, layer.stride_time) &&
           (along_channels ? fits(layer.freq, layer.stride_freq)
                           : fits(layer.channels, layer.stride_channel));
}

int widest(const LayerOutput& layer, bool along_channels) {
    const std::int32_t extent = along_channels ? layer.channels : layer.freq;
    const std::int64_t stride = along_channels ? layer.stride_channel : layer.stride_freq;
    if (stride != 1) return 1;
    int width = kWordBytes / size_of(layer.dtype);
    while (width > 1 && (extent % width != 0 || !word_aligned(layer, along_channels, width))) {
        width /= 2;
    }
    return width;
}

ItemAxis choose_item_axis(const LayerOutput& layer) {
    const int freq = widest(layer, false);
    const int channels = widest(layer, true);
    return channels > freq ? ItemAxis{true, channels} : ItemAxis{false, freq};
}

}  // namespace

Grid make_grid(const FusionInput& input, std::int64_t target_threads) {
    Grid grid{};
    std::int64_t items = 0;
    std::int32_t d = 0;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        const LayerOutput& layer = input.layers[l];
        LayerGrid& part = grid.layers[l];
        part.axis = choose_item_axis(layer);
        part.items = layer.dim() / part.axis.width;
        part.first_d = d;
        d += layer.dim();
        items += part.items;
    }

    const std::int64_t clips = std::max<std::int64_t>(input.clips, 1);
    const std::int64_t frames_per_clip = input.frames * input.segments / clips;
    grid.time_lanes = 1;
    while (grid.time_lanes < kMaxTimeLanes && grid.time_lanes < frames_per_clip &&
           clips * items * grid.time_lanes < target_threads) {
        grid.time_lanes *= 2;
    }

    const std::int32_t items_per_block = kBlockThreads / grid.time_lanes;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        LayerGrid& part = grid.layers[l];
        const std::int32_t run = part.axis.along_channels
                                     ? items_per_block
                                     : power_of_two_factor(input.layers[l].freq / part.axis.width);
        part.adjacent = std::min(run, items_per_block);
        part.first_block = grid.blocks_per_clip;
        grid.blocks_per_clip += (part.items + items_per_block - 1) / items_per_block;
    }
    return grid;
}

}  // namespace fusion_engine
