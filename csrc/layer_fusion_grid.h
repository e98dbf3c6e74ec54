// The CUDA algorithm of layer fusion, in functions that build for the GPU and for the host.
//
// A layer output is cut into items: values that are neighbours in memory, along frequency (NCHW) or
// along channels (NHWC, vectors), and that one load takes. A block of 256 threads holds
// 256 / time_lanes items; the time lanes of an item take its counted frames in turn and are merged
// as a tree. Neighbouring threads hold neighbouring items, then neighbouring frames, so that loads
// coalesce in NCHW as in NHWC. What one thread does is in layer_fusion_lane.h.
#pragma once

#include <cstdint>

#include "layer_fusion.h"

namespace fusion_engine {

constexpr int kBlockThreads = 256;
constexpr int kWarpThreads = 32;
constexpr int kMaxTimeLanes = 32;
constexpr int kWordBytes = 16;  // the widest load

struct ItemAxis {
    bool along_channels;
    std::int32_t width;  // values of an item, a power of two
};

struct LayerGrid {
    ItemAxis axis;
    std::int32_t items;
    std::int32_t adjacent;     // items that are neighbours in memory, a power of two
    std::int32_t first_block;  // of this layer within a clip's blocks
    std::int32_t first_d;
};

struct Grid {
    LayerGrid layers[kMaxLayers];
    std::int32_t time_lanes;  // a power of two
    std::int32_t blocks_per_clip;
};

// What a kernel gets, by value.
struct GridTask {
    FusionInput input;
    FusionOutput output;
    Grid grid;
};

// Fills `target_threads` with time lanes where the clips and items alone do not.
Grid make_grid(const FusionInput& input, std::int64_t target_threads);

// Which block, item and time lane a thread is.
struct GridPlace {
    std::int32_t clip;
    std::int32_t layer;
    std::int32_t item;
    std::int32_t time_lane;
};

FUSION_HD GridPlace place_of(const GridTask& task, std::int64_t block, std::int32_t thread) {
    const Grid& grid = task.grid;
    // A grid has less than 2^31 blocks where this is slow: 64-bit divisions on a GPU.
    const auto index = static_cast<std::uint32_t>(block);
    const auto blocks = static_cast<std::uint32_t>(grid.blocks_per_clip);
    const auto rest = static_cast<std::int32_t>(index % blocks);
    std::int32_t layer = 0;
    FUSION_NO_UNROLL
    while (layer + 1 < task.input.layer_count && rest >= grid.layers[layer + 1].first_block) {
        ++layer;
    }
    const LayerGrid& part = grid.layers[layer];
    const std::int32_t items_per_block = kBlockThreads / grid.time_lanes;
    const std::int32_t row = thread / part.adjacent;
    const std::int32_t item = (rest - part.first_block) * items_per_block +
                              row / grid.time_lanes * part.adjacent + thread % part.adjacent;
    return {static_cast<std::int32_t>(index / blocks), layer, item, row % grid.time_lanes};
}

struct Item {
    std::int64_t offset;    // elements from the segment's start
    std::int32_t d;         // index of its first value in the embedding's part of this layer
    std::int32_t d_stride;  // from one value to the next
};

// d = c * F + f, Eq. 1's flatten order.
FUSION_HD Item item_at(const LayerOutput& layer, ItemAxis axis, std::int32_t index) {
    std::int32_t c = 0;
    std::int32_t f = 0;
    if (axis.along_channels) {
        const std::int32_t groups = layer.channels / axis.width;
        f = index / groups;
        c = index % groups * axis.width;
    } else {
        const std::int32_t groups = layer.freq / axis.width;
        c = index / groups;
        f = index % groups * axis.width;
    }
    return {c * layer.stride_channel + f * layer.stride_freq, c * layer.freq + f,
            axis.along_channels ? layer.freq : 1};
}

// Calls run.template operator()<T, V>() for the layer's dtype and item width.
template <class Run>
FUSION_KERNEL void dispatch(const GridTask& task, std::int32_t layer, const Run& run) {
    const DType dtype = task.input.layers[layer].dtype;
    const std::int32_t width = task.grid.layers[layer].axis.width;
    if (dtype == DType::kFloat32) {
        if (width == 4) return run.template operator()<float, 4>();
        if (width == 2) return run.template operator()<float, 2>();
        return run.template operator()<float, 1>();
    }
    if (dtype == DType::kFloat16) {
        if (width == 8) return run.template operator()<Float16, 8>();
        if (width == 4) return run.template operator()<Float16, 4>();
        if (width == 2) return run.template operator()<Float16, 2>();
        return run.template operator()<Float16, 1>();
    }
    if (width == 8) return run.template operator()<BFloat16, 8>();
    if (width == 4) return run.template operator()<BFloat16, 4>();
    if (width == 2) return run.template operator()<BFloat16, 2>();
    return run.template operator()<BFloat16, 1>();
}

}  // namespace fusion_engine
