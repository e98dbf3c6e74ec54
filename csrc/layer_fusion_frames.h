// Frame features: what one thread of their grid writes. The grid is layer fusion's.
//
// Apart from the sums, which need the registers that the addresses take here. Whoever wants frame
// features has the layer outputs read twice, and writes at least as many bytes.
#pragma once

#include <cstdint>

#include "layer_fusion_lane.h"

namespace fusion_engine {

template <class T, int V>
FUSION_KERNEL void write_frames(const GridTask& task, const GridPlace& place) {
    const FusionInput& input = task.input;
    const FrameFeatures& frames = task.output.frames;
    const LayerOutput& layer = input.layers[place.layer];
    const LayerGrid& grid = task.grid.layers[place.layer];
    const std::int32_t lanes = task.grid.time_lanes;
    if (place.item >= grid.items) return;
    const Item item = item_at(layer, grid.axis, place.item);
    const std::int64_t index = std::int64_t{place.clip} * input.dim + grid.first_d + item.d;
    const std::int64_t start = frames.offsets != nullptr ? frames.offsets[place.clip] : 0;
    float* column = frames.data + index * frames.total + start;
    const std::int64_t room = frames.total - start;
    RowPool<T, V> pool{layer};
    const std::int64_t pool_stride = layer.is_vector ? 0 : layer.time_pool * layer.stride_time;
    const auto begin = static_cast<std::int32_t>(input.first_segment(place.clip));
    const auto end = static_cast<std::int32_t>(input.first_segment(std::int64_t{place.clip} + 1));
    std::uint32_t position = 0;
    FUSION_NO_UNROLL
    for (std::int32_t s = begin; s < end; ++s) {
        const T* rows = segment_start<T>(input, layer, s, item.offset);
        const auto counted = static_cast<std::uint32_t>(input.count(s));
        const std::int32_t first = first_frame(place.time_lane, lanes, position);
        FUSION_NO_UNROLL
        for (std::uint32_t frame = first; frame < counted; frame += lanes) {
            const std::int64_t at = std::int64_t{position} + frame;
            if (at >= room) break;
            float values[V];
            pool.of(rows + frame * pool_stride, layer.time_pool).unpack(values);
            FUSION_UNROLL
            for (int i = 0; i < V; ++i) column[at + i * item.d_stride * frames.total] = values[i];
        }
        position += counted;
    }
}

}  // namespace fusion_engine
